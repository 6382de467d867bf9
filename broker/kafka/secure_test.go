package kafka_test

import (
	"context"
	"fmt"
	neturl "net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/amlun/linda"
	"github.com/amlun/linda/internal/brokerd"
)

// right is one that docs/brokers.md names.
type right struct {
	on      kmsg.ACLResourceType
	name    string
	pattern kmsg.ACLResourcePatternType
	do      []kmsg.ACLOperation
}

// rights are all that the user of the queue mail needs.
var rights = []right{
	{kmsg.ACLResourceTypeTopic, "mail", kmsg.ACLResourcePatternTypeLiteral, topicRights},
	{kmsg.ACLResourceTypeTopic, "_mail.dead", kmsg.ACLResourcePatternTypeLiteral, topicRights},
	{kmsg.ACLResourceTypeTopic, "_linda.delay.", kmsg.ACLResourcePatternTypePrefixed, topicRights},
	{kmsg.ACLResourceTypeGroup, "linda.", kmsg.ACLResourcePatternTypePrefixed, []kmsg.ACLOperation{
		kmsg.ACLOperationRead, kmsg.ACLOperationAlterConfigs, kmsg.ACLOperationDescribeConfigs,
	}},
	{kmsg.ACLResourceTypeTransactionalId, "linda.delay", kmsg.ACLResourcePatternTypeLiteral, []kmsg.ACLOperation{kmsg.ACLOperationWrite}},
}

var topicRights = []kmsg.ACLOperation{
	kmsg.ACLOperationRead, kmsg.ACLOperationWrite, kmsg.ACLOperationCreate,
	kmsg.ACLOperationDelete, kmsg.ACLOperationDescribeConfigs, // these two for trimming and kicking
}

func grant(t *testing.T, server *brokerd.Server, rights []right) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(fmt.Sprint("127.0.0.1:", server.Ports[2])))
	require.NoError(t, err)
	defer c.Close()
	request := kmsg.NewPtrCreateACLsRequest()
	for _, r := range rights {
		for _, do := range r.do {
			entry := kmsg.NewCreateACLsRequestCreation()
			entry.ResourceType, entry.ResourceName, entry.ResourcePatternType = r.on, r.name, r.pattern
			entry.Principal, entry.Host = "User:"+brokerd.KafkaUser, "*"
			entry.Operation, entry.PermissionType = do, kmsg.ACLPermissionTypeAllow
			request.Creations = append(request.Creations, entry)
		}
	}
	answer, err := request.RequestWith(t.Context(), c)
	require.NoError(t, err)
	for _, r := range answer.Results {
		require.NoError(t, kerr.ErrorForCode(r.ErrorCode))
	}
}

// with returns the server's URL with other options and another password.
func with(t *testing.T, server *brokerd.Server, password string, options map[string]string) string {
	t.Helper()
	u, err := neturl.Parse(server.URL)
	require.NoError(t, err)
	u.User = neturl.UserPassword(brokerd.KafkaUser, password)
	q := u.Query()
	for name, value := range options {
		if q.Set(name, value); value == "" {
			q.Del(name)
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func TestAUserWithTheRightsThatTheDocumentationNamesCanDoEverything(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.KafkaSecure)
	grant(t, server, rights)
	direct, err := kgo.NewClient(kgo.SeedBrokers(fmt.Sprint("127.0.0.1:", server.Ports[2])))
	require.NoError(t, err)
	defer direct.Close()
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		b := open(t, with(t, server, brokerd.KafkaPassword, map[string]string{"sasl": mechanism, "trim_every": "1s"}))
		require.NoError(t, b.Push(newJob("now"), "mail"), mechanism)
		require.NoError(t, b.Later(1, newJob("later"), "mail"), mechanism)
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second) // the server makes its own topics
		for _, class := range []string{"now", "later"} {
			jobs, err := b.(linda.Fetcher).Fetch(ctx, "mail", 1, time.Minute)
			require.NoError(t, err, mechanism)
			require.Equal(t, class, jobs[0].Payload.Class)
			require.NoError(t, b.(linda.Settler).Settle(ctx, "mail", []linda.Settlement{{Job: jobs[0], Op: linda.OpBury}}))
		}
		cancel()
		n, err := b.(linda.Inspector).Kick(t.Context(), "mail", 10)
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.NoError(t, deleteAll(t.Context(), b, "mail", fetchAll(t, b, "mail", 2)))
		before := begin(t, direct, "mail")
		require.Eventually(t, func() bool {
			oneMore(t, b, "mail")
			return begin(t, direct, "mail") > before
		}, 30*time.Second, 200*time.Millisecond, "it is trimmed")
		require.NoError(t, b.Close())
	}
}

func TestWithoutARightTheErrorSaysSo(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.KafkaSecure)
	b := open(t, server.URL)
	defer b.Close()
	require.ErrorIs(t, b.Push(newJob("C"), "mail"), linda.ErrDenied)
	grant(t, server, rights[:3])
	require.Eventually(t, func() bool { return b.Push(newJob("C"), "mail") == nil }, 10*time.Second, 50*time.Millisecond)
	_, err := b.(linda.Fetcher).Fetch(t.Context(), "mail", 1, time.Minute)
	require.ErrorIs(t, err, linda.ErrDenied, "it has no right to the group")
}

func TestAWrongPasswordIsDeniedAndNotTold(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.KafkaSecure)
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		begun := time.Now()
		_, err := linda.NewBroker(with(t, server, "wrong"+brokerd.KafkaPassword, map[string]string{"sasl": mechanism}))
		require.ErrorIs(t, err, linda.ErrDenied, mechanism)
		assert.NotContains(t, err.Error(), brokerd.KafkaPassword)
		assert.Less(t, time.Since(begun), 6*time.Second)
	}
}

func TestACertificateThatNobodyTrustsIsRefused(t *testing.T) {
	t.Parallel()
	server := brokerd.Run(t, brokerd.KafkaSecure)
	_, err := linda.NewBroker(with(t, server, brokerd.KafkaPassword, map[string]string{"ca": ""}))
	require.ErrorContains(t, err, "certificate")
	assert.NotContains(t, err.Error(), brokerd.KafkaPassword)

	u, err := neturl.Parse(server.URL)
	require.NoError(t, err)
	u.User, u.Host = nil, fmt.Sprint("127.0.0.1:", server.Ports[3])
	q := u.Query()
	q.Del("sasl")
	u.RawQuery = q.Encode()
	b := open(t, u.String())
	require.NoError(t, b.Push(newJob("C"), "q"), "TLS without a user")
	require.NoError(t, b.Close())
	u.Host = fmt.Sprint("localhost:", server.Ports[3])
	_, err = linda.NewBroker(u.String())
	require.Error(t, err, "it is for 127.0.0.1")
}
