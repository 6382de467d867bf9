package kafka

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNoQueueHasTheGroupOfAnotherOrOfTheMovers(t *testing.T) {
	t.Parallel()
	topics := []string{"q", "delay", "delay.leader", "share", "classic", "leader", "linda.delay", "delay.delay", "linda", "share.delay", "x.delay"}
	for _, c := range []*config{{group: "linda"}, {group: "linda.delay"}, {group: "linda", prefix: "linda."}, {group: "x", prefix: "x.x."}} {
		taken := map[string]string{c.moverGroup(): "the movers", c.leaderGroup(): "who leads"}
		for _, queue := range topics {
			b := &broker{config: c}
			topic := b.topicOf(queue)
			for mode, group := range map[string]string{modeShare: c.shareGroup(topic), modeClassic: c.classicGroup(topic)} {
				assert.Empty(t, taken[group], "%s of the queue %s, %s mode, prefix %q", group, queue, mode, c.prefix)
				taken[group] = queue
			}
		}
	}
}

func TestTheGroupsOfOtherQueuesStayAsTheyWere(t *testing.T) {
	t.Parallel()
	c := &config{group: "linda"}
	for topic, want := range map[string]string{
		"q": "linda.q", "x.delay": "linda.x.delay", "delays": "linda.delays", "delay.x": "linda.delay.x",
		"delay": "linda.share:delay", "delay.leader": "linda.share:delay.leader",
	} {
		assert.Equal(t, want, c.shareGroup(topic))
	}
	assert.Equal(t, "linda.classic:delay", c.classicGroup("delay"))
	assert.Equal(t, "linda.delay", c.moverGroup())
	assert.Equal(t, "linda.delay.leader", c.leaderGroup())
}
