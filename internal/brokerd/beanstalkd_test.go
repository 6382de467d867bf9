package brokerd

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBeanstalkdKeepsItsJobsWhereItHasABinlog(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		kind Kind
		want string
	}{
		{Beanstalkd, "FOUND 1 4\r\nwork\r\n"},
		{BeanstalkdUnlogged, "NOT_FOUND\r\n"},
	} {
		s := Run(t, test.kind, Args("-z", "10"))
		assert.Equal(t, "beanstalkd://"+s.Addr, s.URL)
		requireAnswer(t, s, "put 0 0 60 4\r\nwork", "INSERTED 1\r\n")
		requireAnswer(t, s, "put 0 0 60 11\r\nhello world", "JOB_TOO_BIG\r\n")
		if test.kind.name == Beanstalkd.name {
			require.NoError(t, s.Stop()) // an orderly end: what was put is on the disk
		}
		require.NoError(t, s.Restart(t.Context()))
		requireAnswer(t, s, "peek 1", test.want)
	}
}

func TestBeanstalkdIsReadyWhenItsOwnProcessAnswers(t *testing.T) {
	t.Parallel()
	s := Run(t, Beanstalkd)
	require.NoError(t, beanstalkdReady(t.Context(), s.setup, s.proc.pid()))
	require.Error(t, beanstalkdReady(t.Context(), s.setup, s.proc.pid()+1), "another process")
}
