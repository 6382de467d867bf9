package nsq

import (
	"maps"
	"net"
	neturl "net/url"
	"slices"
	"strconv"
	"time"

	"github.com/amlun/linda/internal/brokerurl"
)

const lookUpEvery = 15 * time.Second

// lookUp asks the nsqlookupds again and again for nsqds that have the topics of
// the queues that jobs are fetched from. What one cannot tell now it is asked
// the next time.
func (b *broker) lookUp() {
	for {
		b.mu.Lock()
		taps := slices.Collect(maps.Values(b.taps))
		b.mu.Unlock()
		for _, t := range taps {
			for _, web := range b.config.lookupd {
				b.lookUpTopic(web, t)
			}
		}
		select {
		case <-b.opened: // a new queue is looked up at once
		case <-time.After(lookUpEvery):
		case <-b.life.Done():
			return
		}
	}
}

func (b *broker) lookUpTopic(web string, t *tap) {
	var found struct {
		Producers []struct {
			Host string `json:"broadcast_address"`
			TCP  int    `json:"tcp_port"`
			HTTP int    `json:"http_port"`
		} `json:"producers"`
	}
	if b.get(b.life, web+"/lookup?topic="+neturl.QueryEscape(t.topic), &found) != nil {
		return
	}
	for _, p := range found.Producers {
		addr, err := brokerurl.Host(net.JoinHostPort(p.Host, strconv.Itoa(p.TCP)), 0)
		if err != nil {
			continue
		}
		here := ""
		if len(b.config.http) > 0 {
			here = "http://" + net.JoinHostPort(p.Host, strconv.Itoa(p.HTTP))
		}
		b.discover(t, addr, here)
	}
}

// discover has a tap fetch from a server, unless it does so already.
func (b *broker) discover(t *tap, addr, web string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.life.Err() != nil {
		return
	}
	i := slices.IndexFunc(b.servers, func(s *server) bool { return s.addr == addr || web != "" && s.web == web })
	if i < 0 {
		i = len(b.servers)
		b.servers = append(b.servers, newServer(b, addr, web))
	}
	t.mu.Lock()
	known := slices.ContainsFunc(t.feeds, func(f *feed) bool { return f.server == b.servers[i] })
	t.mu.Unlock()
	if !known {
		b.feed(t, b.servers[i])
	}
}
