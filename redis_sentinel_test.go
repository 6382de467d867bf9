package linda_test

import (
	"cmp"
	neturl "net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// sentinelRights reads from the documentation what the user of the sentinels
// must be allowed.
func sentinelRights(t *testing.T) []string {
	text, err := os.ReadFile("docs/brokers.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "ACL SETUSER linda-sentinel on '>password' resetchannels -@all ")
	require.True(t, found)
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Fields(strings.ReplaceAll(line, "'", ""))
}

// needsTheRightsAtSentinels checks that a user of the sentinels who has the
// rights that are documented finds the master and is told of another, and that
// one who lacks any of them is not.
func needsTheRightsAtSentinels(t *testing.T, g *brokerd.Group) {
	rights := sentinelRights(t)
	all := append([]string{""}, rights...)
	for _, missing := range all {
		t.Run(cmp.Or(missing, "all"), func(t *testing.T) {
			b, err := linda.NewBroker(asSentinelUser(t, g, rights, missing))
			if missing == "" {
				require.NoError(t, err)
			}
			if err != nil {
				return
			}
			defer b.Close()
			require.NoError(t, b.Push(&linda.Job{Payload: linda.Payload{Class: "C"}}, "rights"))
			if missing == "" {
				require.Eventually(t, func() bool { return listeners(t, g) > 0 }, 10*time.Second, 10*time.Millisecond)
				return
			}
			time.Sleep(2 * time.Second) // nothing tells that it does not come
			assert.Zero(t, listeners(t, g), "a right that is not needed")
		})
		require.Eventually(t, func() bool { return listeners(t, g) == 0 }, 10*time.Second, 10*time.Millisecond)
	}
}

// asSentinelUser gives a user of every sentinel some rights and returns the URL
// for it.
func asSentinelUser(t *testing.T, g *brokerd.Group, rights []string, missing string) string {
	args := []any{"ACL", "SETUSER", "linda", "reset", "on", ">secret", "resetchannels", "-@all"}
	for _, right := range rights {
		if right != missing {
			args = append(args, right)
		}
	}
	for _, s := range g.Servers[3:] {
		require.NoError(t, redisClient(t, s.URL).Do(t.Context(), args...).Err())
	}
	u, err := neturl.Parse(g.URL)
	require.NoError(t, err)
	options := u.Query()
	options.Set("sentinel_username", "linda")
	options.Set("sentinel_password", "secret")
	u.RawQuery = options.Encode()
	return u.String()
}

// listeners returns how many clients of the user the sentinels would tell of a
// new master.
func listeners(t *testing.T, g *brokerd.Group) (n int) {
	for _, s := range g.Servers[3:] {
		c := redis.NewClient(&redis.Options{Addr: s.Addr})
		list, err := c.ClientList(t.Context()).Result()
		assert.NoError(t, err)
		for line := range strings.Lines(list) {
			if strings.Contains(line, " user=linda ") && !strings.Contains(line, " sub=0 ") {
				n++
			}
		}
		assert.NoError(t, c.Close())
	}
	return n
}
