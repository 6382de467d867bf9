package nsq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds what is read of an answer over HTTP.
const maxAnswer = 64 << 20

var errNoWeb = fmt.Errorf("linda/nsq: nsqd tells that only over HTTP, and the option http is off: %w", errors.ErrUnsupported)

// get asks a server over HTTP.
func (b *broker) get(ctx context.Context, url string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/vnd.nsq; version=1.0")
	response, err := b.web.Do(request)
	if err != nil {
		return fmt.Errorf("linda/nsq: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answers %s: %.200q", response.Status, body)
	}
	if err == nil {
		err = json.Unmarshal(body, answer)
	}
	if err != nil {
		return fmt.Errorf("linda/nsq: %s: %w", request.URL.Host, err)
	}
	return nil
}

// askLimits reads those settings of a server that it does not tell otherwise.
// Without them its defaults are assumed.
func (s *server) askLimits(ctx context.Context) {
	if s.web == "" {
		return
	}
	var maxReq, maxSize, memory json.RawMessage
	for name, value := range map[string]*json.RawMessage{"max_req_timeout": &maxReq, "max_msg_size": &maxSize, "mem_queue_size": &memory} {
		if s.broker.get(ctx, s.web+"/config/"+name, value) != nil {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits.asked = true
	s.limits.maxReq = time.Duration(integer(maxReq))
	s.limits.maxSize = int(integer(maxSize))
	s.limits.memory = integer(memory)
}

func integer(text json.RawMessage) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}

// statistics is what a server tells of its topics.
type statistics struct {
	Topics []struct {
		Name     string         `json:"topic_name"`
		Depth    int64          `json:"depth"`
		Channels []channelStats `json:"channels"`
	} `json:"topics"`
}

type channelStats struct {
	Name     string `json:"channel_name"`
	Depth    int64  `json:"depth"`
	InFlight int64  `json:"in_flight_count"`
	Deferred int64  `json:"deferred_count"`
	Paused   bool   `json:"paused"`
	Clients  []struct {
		ID       string `json:"client_id"`
		Ready    int    `json:"ready_count"`
		InFlight int    `json:"in_flight_count"`
		Finished uint64 `json:"finish_count"`
		Requeued uint64 `json:"requeue_count"`
	} `json:"clients"`
}

// topicStats asks for the statistics of a topic and its channel; both are zero
// where they are not there.
func (s *server) topicStats(ctx context.Context, topic string) (depth int64, c channelStats, err error) {
	if s.web == "" {
		return 0, c, errNoWeb
	}
	query := neturl.Values{"format": {"json"}, "topic": {topic}, "include_mem": {"false"}, "include_clients": {"true"}}
	var all statistics
	if err := s.broker.get(ctx, s.web+"/stats?"+query.Encode(), &all); err != nil {
		return 0, c, err
	}
	for _, t := range all.Topics {
		if t.Name != topic {
			continue
		}
		depth = t.Depth
		for _, one := range t.Channels {
			if one.Name == s.broker.config.channel {
				c = one
			}
		}
	}
	return depth, c, nil
}

// client is what one connection knows of itself.
type client struct {
	id   string
	rdy  int    // as it has told the server
	held int    // messages in flight
	told uint64 // FIN and REQ that it has sent, and the server not refused
}

// sees reports whether the server has done all that the client has sent, and
// sent it all that this lets it send now.
func (c *channelStats) sees(k client) bool {
	for _, s := range c.Clients {
		if s.ID == k.id {
			return s.Ready == k.rdy && s.InFlight <= k.held && s.Finished+s.Requeued >= k.told
		}
	}
	return false
}
