package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// configure sees to it that a share group hands out all that was pushed before
// it was made, nothing of an open transaction, and with the lock of the URL.
// It writes nothing where that is so already.
func (b *broker) configure(ctx context.Context, group string) error {
	want := map[string]string{
		"share.auto.offset.reset":       "earliest",
		"share.isolation.level":         "read_committed",
		"share.record.lock.duration.ms": strconv.FormatInt(b.config.lock.Milliseconds(), 10),
	}
	described := kmsg.NewPtrDescribeConfigsRequest()
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	described.Resources = append(described.Resources, resource)
	answer, err := described.RequestWith(ctx, b.client)
	if err != nil {
		return err
	}
	for _, r := range answer.Resources {
		for _, c := range r.Configs {
			if c.Value != nil && want[c.Name] == *c.Value {
				delete(want, c.Name)
			}
		}
	}
	if len(want) == 0 {
		return nil
	}
	return b.alter(ctx, group, want)
}

func (b *broker) alter(ctx context.Context, group string, want map[string]string) error {
	request := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	line := ""
	for name, value := range want {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = name, &value
		resource.Configs = append(resource.Configs, c)
		line += "," + name + "=" + value
	}
	request.Resources = append(request.Resources, resource)
	answer, err := request.RequestWith(ctx, b.client)
	if err == nil && len(answer.Resources) == 1 {
		err = kerr.ErrorForCode(answer.Resources[0].ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("set up the share group (kafka-configs.sh --alter --entity-type groups --entity-name %s --add-config %s): %w", group, line[1:], err)
	}
	return nil
}

// member is a membership of a share group.
type member struct {
	client    *kgo.Client
	group, id string
	topic     string
	epoch     int32
	every     time.Duration
}

// join returns when the group has taken the member in and given it some of the
// topic, which makes the group's state of all of it.
func (m *member) join(ctx context.Context) error {
	for try := 1; ; try++ {
		answer, err := m.beat(ctx)
		switch {
		case err == nil && answer.Assignment != nil && len(answer.Assignment.TopicPartitions) > 0:
			return nil
		case err != nil && !retriable(err):
			return err
		}
		pause := 10 * time.Millisecond
		if err != nil {
			pause = backoff(try)
		}
		if sleep(ctx, pause) != nil {
			return fmt.Errorf("join the share group %s: %w", m.group, errors.Join(err, ctx.Err()))
		}
	}
}

// beat tells the group that the member is there.
func (m *member) beat(ctx context.Context) (*kmsg.ShareGroupHeartbeatResponse, error) {
	request := kmsg.NewPtrShareGroupHeartbeatRequest()
	request.GroupID, request.MemberID, request.MemberEpoch = m.group, m.id, m.epoch
	if m.epoch == 0 {
		request.SubscribedTopicNames = []string{m.topic}
	}
	answer, err := request.RequestWith(ctx, m.client)
	if err != nil {
		return nil, err
	}
	switch err := kerr.ErrorForCode(answer.ErrorCode); {
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.FencedMemberEpoch):
		m.epoch = 0 // it joins again; what it holds is held by the session
		return nil, kerr.CoordinatorNotAvailable
	case err != nil:
		return nil, err
	}
	m.epoch, m.every = answer.MemberEpoch, time.Duration(answer.HeartbeatIntervalMillis)*time.Millisecond
	return answer, nil
}

// stay beats until ctx ends, which is no error.
func (m *member) stay(ctx context.Context) error {
	for try := 1; ; try++ {
		pause := m.every
		if try > 1 {
			pause = min(pause, backoff(try-1))
		}
		if sleep(ctx, pause) != nil {
			return nil
		}
		limited, cancel := context.WithTimeout(ctx, callLimit)
		_, err := m.beat(limited)
		cancel()
		if err == nil {
			try = 0
		} else if slices.ContainsFunc(final, func(e error) bool { return errors.Is(err, e) }) {
			return err
		}
	}
}

// final are the errors that another beat does not mend.
var final = []error{kerr.GroupAuthorizationFailed, kerr.TopicAuthorizationFailed, kerr.InvalidRequest, kerr.UnsupportedVersion}

// leave ends the membership, if the server answers soon.
func (m *member) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	m.epoch = -1
	_, _ = m.beat(ctx)
}
