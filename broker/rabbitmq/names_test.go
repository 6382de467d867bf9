package rabbitmq

import (
	"math/rand/v2"
	neturl "net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
)

func TestNoTwoQueuesShareANameOnTheServer(t *testing.T) {
	t.Parallel()
	parts := []string{"a", "amq.", "amq", ".dead", ".ready", "-ready", "linda", ".", "_", "0"}
	c := &config{}
	taken := map[string]string{}
	for range 50_000 {
		var queue string
		for range 1 + rand.IntN(5) {
			queue += parts[rand.IntN(len(parts))]
		}
		if linda.CheckName(queue) != nil {
			continue
		}
		for kind, name := range map[string]string{"ready": c.ready(queue), "dead": c.dead(queue), "alone": c.alone(queue)} {
			require.False(t, strings.HasPrefix(name, "amq."), name)
			owner := queue + " " + kind
			if other, known := taken[name]; known {
				require.Equal(t, other, owner, name)
			}
			taken[name] = owner
		}
	}
}

func TestDigitsAreNeverLessThanTheDelay(t *testing.T) {
	t.Parallel()
	for range 10_000 {
		delay := time.Duration(1 + rand.Int64N(int64(delayMost)>>rand.IntN(50)))
		var sum time.Duration
		hops := 0
		all := digits(delay)
		for i, d := range all {
			sum += time.Duration(d-'0') * delayUnit << (i * digitBits)
			if d != '0' {
				hops++
			}
		}
		late := sum - delay - time.Duration(hops)*time.Millisecond
		require.GreaterOrEqual(t, late, time.Duration(0))
		require.Less(t, late, 8*delayUnit)
		require.LessOrEqual(t, len(all), delayDigits)
		require.True(t, len(all) < delayDigits || all[delayDigits-1] == '1')
	}
}

func TestTagsAreAcknowledgedTogetherWhereNoneIsOpenBelow(t *testing.T) {
	t.Parallel()
	var s tags
	for _, step := range []struct {
		note, ack []uint64
		now       bool // not patient
		upTo      uint64
		single    []uint64
	}{
		{ack: []uint64{2, 3}},             // 1 may be settled soon
		{ack: []uint64{5, 1, 6}, upTo: 3}, // it is
		{ack: []uint64{8}, single: []uint64{5, 6}},
		{note: []uint64{4}, ack: []uint64{7}, upTo: 8},
		{upTo: 0},
		{ack: []uint64{10, 12}},
		{ack: []uint64{13}, now: true, single: []uint64{10, 12, 13}},
		{ack: []uint64{9}, upTo: 9}, // 10 is acknowledged already: no more up to it
		{ack: []uint64{11}, now: true, upTo: 11},
		{ack: []uint64{15, 14, 17}, now: true, upTo: 15, single: []uint64{17}},
	} {
		s.note(step.note...)
		s.acknowledge(step.ack...)
		upTo, single := s.together(), s.single(!step.now)
		assert.Equal(t, step.upTo, upTo, "%v", step)
		assert.ElementsMatch(t, step.single, single, "%v", step)
	}
	assert.Equal(t, uint64(15), s.all)
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for text, wrong := range map[string]string{
		"amqp://h":                              "",
		"amqp://u:p%2F@h:1,h2:2/vhost":          "",
		"amqp://h/?queue_type=quorum&prefix=x.": "",
		"amqp://h/?heartbeat=5&consumer_timeout=1h&connection_timeout=300": "",
		"amqps://h/?server_name_indication=x":                              "",
		"amqp://h/?colour=red":                                             "colour",
		"amqp://h/?queue_type=stream":                                      "queue_type",
		"amqp://h/?prefix=amq.":                                            "prefix",
		"amqp://h/?prefetch=0":                                             "prefetch",
		"amqp://h/?prefetch=1&prefetch=2":                                  "prefetch",
		"amqp://h/?cacertfile=x":                                           "amqps",
		"amqp://h:99999/":                                                  "port",
		"amqp://h,/":                                                       "host",
		"amqp://:5672,h:1/":                                                "host",
	} {
		url, err := neturl.Parse(text)
		require.NoError(t, err)
		_, err = readURL(url)
		if wrong == "" {
			assert.NoError(t, err, text)
			continue
		}
		require.ErrorIs(t, err, linda.ErrBadURL, text)
		assert.ErrorContains(t, err, wrong, text)
	}
}
