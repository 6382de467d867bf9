//go:build !unix

package chaos

import "time"

// Now is the wall clock, in ns, where no other is known that processes share.
func Now() int64 { return time.Now().UnixNano() }
