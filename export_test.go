package linda

import (
	neturl "net/url"

	"github.com/redis/go-redis/v9"
)

// PushRawMemory makes a body READY in a queue of an open memory://store, as a
// producer that is not linda would if there were one.
func PushRawMemory(store, queue, body string) {
	s := memoryStoreOf(store)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queues[queue] == nil {
		s.queues[queue] = newMemoryQueue()
	}
	s.queues[queue].add(&memoryJob{body: body}, 0)
}

// HasMemoryQueue reports whether an open memory://store holds anything for a
// queue.
func HasMemoryQueue(store, queue string) bool {
	s := memoryStoreOf(store)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queues[queue] != nil
}

func memoryStoreOf(name string) *memoryStore {
	memoryStores.Lock()
	defer memoryStores.Unlock()
	return memoryStores.byName[name]
}

// OpenRedis opens a client of go-redis by a URL of linda's.
func OpenRedis(url string) (redis.UniversalClient, error) {
	u, err := neturl.Parse(url)
	if err != nil {
		return nil, err
	}
	config, err := readRedisURL(u)
	if err != nil {
		return nil, err
	}
	return config.open(), nil
}
