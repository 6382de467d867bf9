package rabbitmq

import "time"

// paceOver is the time over which a pace is measured.
const paceOver = 10 * time.Millisecond

// pace tells how quickly jobs are settled. The zero value is ready to use.
type pace struct {
	began  time.Time // of what is counted
	count  int
	before float64 // jobs a second, in the time before that
}

// settled counts jobs.
func (p *pace) settled(n int, now time.Time) {
	if since := now.Sub(p.began); since >= paceOver {
		p.before = float64(p.count) / since.Seconds()
		p.began, p.count = now, 0
	}
	p.count += n
}

// within returns how many jobs will be settled in that time, as it looks.
func (p *pace) within(d time.Duration, now time.Time) int {
	rate := p.before
	if since := now.Sub(p.began); since >= paceOver {
		rate = float64(p.count) / since.Seconds()
	}
	return int(rate * d.Seconds())
}
