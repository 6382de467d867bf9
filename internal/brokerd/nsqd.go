package brokerd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
)

// Nsqd is nsqd with its data in the server's folder; its HTTP is at the second of its ports. It is packaged nowhere:
// the environment variable LINDA_TEST_NSQ may tell where the program is.
var Nsqd = Kind{
	name:    "nsq",
	binary:  "nsqd",
	places:  nsqPlaces("nsqd"),
	lacking: "nsqd is neither on PATH nor where LINDA_TEST_NSQ says",
	remedy:  "build it from its source, no package has it",
	ports:   2,
	command: nsqdCommand,
	ready:   func(ctx context.Context, s setup, pid int) error { return nsqReady(ctx, s) },
	url: func(s setup) string {
		return "nsq://" + s.addr() + "?http=" + loopback(s.ports[1])
	},
}

// Nsqlookupd is nsqlookupd; its HTTP is at the second of its ports, and that is its URL.
var Nsqlookupd = Kind{
	name:    "nsqlookupd",
	binary:  "nsqlookupd",
	places:  nsqPlaces("nsqlookupd"),
	ports:   2,
	command: nsqlookupdCommand,
	ready:   func(ctx context.Context, s setup, pid int) error { return nsqReady(ctx, s) },
	url:     func(s setup) string { return "http://" + loopback(s.ports[1]) },
}

// nsqPlaces are where a program of NSQ may be beside PATH: LINDA_TEST_NSQ is the path of nsqd, or of its folder.
func nsqPlaces(name string) []string {
	place := os.Getenv("LINDA_TEST_NSQ")
	if place == "" {
		return nil
	}
	places := []string{place + "/" + name}
	if name == "nsqd" {
		places = append(places, place)
	}
	return places
}

func nsqdCommand(_ context.Context, s setup) (*exec.Cmd, error) {
	args := []string{
		"-tcp-address=" + s.addr(), "-http-address=" + loopback(s.ports[1]), "-https-address=",
		"-broadcast-address=127.0.0.1", "-data-path=" + s.dir, "-log-level=warn",
	}
	return exec.Command(s.binary, append(args, s.args...)...), nil
}

func nsqlookupdCommand(_ context.Context, s setup) (*exec.Cmd, error) {
	args := []string{"-tcp-address=" + s.addr(), "-http-address=" + loopback(s.ports[1]), "-broadcast-address=127.0.0.1"}
	return exec.Command(s.binary, append(args, s.args...)...), nil
}

// nsqReady asks over HTTP how the server is. The server ends where one of its ports is taken, so that the process that
// answers is the right one as long as it runs.
func nsqReady(ctx context.Context, s setup) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(s.ports[1])+"/info", nil)
	if err != nil {
		return err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var info struct {
		TCP     int    `json:"tcp_port"`
		Version string `json:"version"`
	}
	if err := json.NewDecoder(response.Body).Decode(&info); err != nil {
		return err
	}
	if info.Version == "" || info.TCP != 0 && info.TCP != s.ports[0] {
		return fmt.Errorf("it is not the NSQ that was started: %+v", info)
	}
	return nil
}
