package linda_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	neturl "net/url"
	"time"

	"github.com/amlun/linda"
)

// A program that pushes a job and runs it. With memory:// it needs no server.
func Example() {
	linda.Register("resize", func(job *linda.Job) error {
		fmt.Println(job.Payload.Class, job.Payload.Args)
		go linda.Close() // ends Run; other programs wait for a signal
		return nil
	})
	linda.SetSettings(linda.Settings{Queue: "images", Connection: "memory://"})
	if err := linda.Init(); err != nil {
		log.Fatal(err)
	}
	err := linda.GetBroker().Push(&linda.Job{Payload: linda.Payload{
		Class: "resize", Args: []interface{}{"cat.png", 640},
	}}, "images")
	if err != nil {
		log.Fatal(err)
	}
	if err := linda.Run(); err != nil {
		log.Fatal(err)
	}
	// Output: resize [cat.png 640]
}

// Email is the argument of a class of jobs.
type Email struct {
	To string `json:"to"`
}

func ExampleDefine() {
	ctx, stop := context.WithCancel(context.Background())
	d, err := linda.New(linda.Settings{Queue: "mail", Connection: "memory://"})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()

	welcome := linda.Define[Email]("welcome", linda.MaxAttempts(5))
	welcome.Handle(d, func(ctx context.Context, e Email) error {
		fmt.Println("welcome,", e.To)
		stop()
		return nil
	})
	if _, err := welcome.Push(ctx, d, Email{To: "a@b.c"}); err != nil {
		log.Fatal(err)
	}
	_ = d.Run(ctx)
	// Output: welcome, a@b.c
}

func ExampleDispatcher_Schedule() {
	ctx, stop := context.WithCancel(context.Background())
	d, err := linda.New(linda.Settings{Queue: "reports", Connection: "memory://"})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()

	d.HandleFunc("report", func(_ context.Context, job *linda.Job) error {
		fmt.Println("a whole second:", job.Tick().Equal(job.Tick().Truncate(time.Second)))
		stop()
		return nil
	})
	job := &linda.Job{Payload: linda.Payload{Class: "report"}}
	fmt.Println(d.Schedule("nightly", "CRON_TZ=Europe/Berlin 30 2 * * *", job, linda.Missed(linda.MissedAll)))
	fmt.Println(d.Schedule("often", "* * * * * *", job))
	fmt.Println(d.Schedule("never", "0 0 31 FEB *", job))
	_ = d.Run(ctx)
	// Output:
	// <nil>
	// <nil>
	// linda: schedule "never": linda: bad schedule spec "0 0 31 FEB *": it has no tick within five years
	// a whole second: true
}

func ExampleDispatcher_Run() {
	ctx, stop := context.WithCancel(context.Background()) // or signal.NotifyContext
	d, err := linda.New(linda.Settings{Connection: "memory://", Concurrency: 16})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()

	d.HandleFunc("greet", func(ctx context.Context, job *linda.Job) error {
		defer stop()
		var name string
		if err := job.Payload.Decode(&name); err != nil {
			return linda.Discard(err)
		}
		fmt.Println("hello,", name)
		return nil
	})
	if err := d.Push(ctx, greeting("world")); err != nil {
		log.Fatal(err)
	}
	fmt.Println("stopped:", d.Run(ctx))
	// Output:
	// hello, world
	// stopped: <nil>
}

func greeting(name string) *linda.Job {
	return &linda.Job{Payload: linda.Payload{Class: "greet", Args: []any{name}}}
}

// Middleware sees each attempt of each job.
func ExampleDispatcher_Use() {
	ctx, stop := context.WithCancel(context.Background())
	d, _ := linda.New(linda.Settings{Connection: "memory://"})
	defer d.Close()

	d.Use(func(next linda.Handler) linda.Handler {
		return linda.HandlerFunc(func(ctx context.Context, job *linda.Job) error {
			fmt.Println("before", job.Payload.Class)
			defer fmt.Println("after", job.Payload.Class)
			return next.Handle(ctx, job)
		})
	})
	d.HandleFunc("greet", func(context.Context, *linda.Job) error {
		fmt.Println("hello")
		stop()
		return nil
	})
	_ = d.Push(ctx, greeting("world"))
	_ = d.Run(ctx)
	// Output:
	// before greet
	// hello
	// after greet
}

// A job that comes too early asks for another time. That is no failure.
func ExampleSnooze() {
	runs := 0
	runOnce(func(ctx context.Context, job *linda.Job) error {
		if runs++; runs == 1 {
			return linda.Snooze(time.Millisecond)
		}
		fmt.Printf("run %d, attempt %d\n", runs, job.Attempt())
		return nil
	})
	// Output: run 2, attempt 1
}

// A failure that knows when to try again, as a rate limit does.
func ExampleRetryIn() {
	runOnce(func(ctx context.Context, job *linda.Job) error {
		if job.Attempt() == 1 {
			return linda.RetryIn(time.Millisecond, errors.New("429 too many requests"))
		}
		fmt.Printf("attempt %d, after: %s\n", job.Attempt(), job.LastError())
		return nil
	})
	// Output: attempt 2, after: 429 too many requests
}

// A failure that no further attempt can mend.
func ExampleDiscard() {
	runOnce(func(ctx context.Context, job *linda.Job) error {
		return linda.Discard(errors.New("no such user"))
	})
	// Output: job dead: discarded: no such user
}

// runOnce runs a job with a handler until it is done or dead.
func runOnce(run linda.HandlerFunc) {
	ctx, stop := context.WithCancel(context.Background())
	d, _ := linda.New(linda.Settings{Connection: "memory://", OnEvent: func(e linda.Event) {
		switch e.Kind {
		case linda.EventDead:
			fmt.Println("job dead:", e.Err)
			stop()
		case linda.EventDone:
			stop()
		}
	}})
	defer d.Close()
	d.Handle("greet", run)
	_ = d.Push(ctx, greeting("world"))
	_ = d.Run(ctx)
}

func ExampleDispatcher_Later() {
	ctx := context.Background()
	d, _ := linda.New(linda.Settings{Queue: "q", Connection: "memory://"})
	defer d.Close()

	_ = d.Later(ctx, time.Hour, greeting("tomorrow"))
	_ = d.Push(ctx, greeting("now"))

	inspector, _ := linda.As[linda.Inspector](d.Broker())
	stats, _ := inspector.Stats(ctx, "q")
	fmt.Printf("%d ready, %d delayed\n", stats.Ready, stats.Delayed)
	// Output: 1 ready, 1 delayed
}

func ExampleUnique() {
	ctx := context.Background()
	d, _ := linda.New(linda.Settings{Connection: "memory://"})
	defer d.Close()

	welcome := linda.Define[Email]("welcome")
	for range 2 {
		_, err := welcome.Push(ctx, d, Email{To: "a@b.c"}, linda.Unique("a@b.c", time.Hour))
		var duplicate *linda.DuplicateError
		fmt.Println("already there:", errors.As(err, &duplicate))
	}
	// Output:
	// already there: false
	// already there: true
}

// What a broker can do beyond its nine methods is found by As: here to look at
// the dead jobs and to let them run again.
func ExampleAs() {
	ctx := context.Background()
	broker, err := linda.NewBroker("memory://")
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Close()
	_ = broker.Push(greeting("world"), "q")
	job, _ := broker.Pop("q", 60)
	settler, _ := linda.As[linda.Settler](broker)
	_ = settler.Settle(ctx, "q", []linda.Settlement{{Job: job, Op: linda.OpBury, Reason: "no such user"}})

	inspector, ok := linda.As[linda.Inspector](broker)
	if !ok {
		log.Fatal("this broker cannot be inspected")
	}
	dead, _ := inspector.Peek(ctx, "q", linda.Dead, 10)
	for _, job := range dead {
		fmt.Println(job.Payload.Class, "is dead:", job.LastError())
	}
	kicked, _ := inspector.Kick(ctx, "q", 10)
	stats, _ := inspector.Stats(ctx, "q")
	fmt.Printf("%d kicked, %d ready\n", kicked, stats.Ready)
	// Output:
	// greet is dead: no such user
	// 1 kicked, 1 ready
}

// Arguments are decoded into the types that a handler wants, exactly.
func ExamplePayload_Decode() {
	job, err := linda.Decode("images", `{"Payload":{"class":"resize","args":["cat.png",9007199254740993,{"crop":true}]}}`)
	if err != nil {
		log.Fatal(err)
	}
	var (
		file    string
		size    int64
		options struct{ Crop bool }
	)
	err = job.Payload.Decode(&file, &size, &options)
	fmt.Println(file, size, options.Crop, err)
	// Output: cat.png 9007199254740993 true <nil>
}

// loudBroker tells of each push; everything else is done by the broker in it.
type loudBroker struct{ linda.Broker }

func (b *loudBroker) Connect(url *neturl.URL) (err error) {
	b.Broker, err = linda.NewBroker("memory://" + url.Host)
	return err
}

func (b *loudBroker) Close() error {
	if b.Broker == nil { // Connect failed
		return nil
	}
	return b.Broker.Close()
}

func (b *loudBroker) Push(job *linda.Job, queue string) error {
	fmt.Println("push", job.Payload.Class, "to", queue)
	return b.Broker.Push(job, queue)
}

// A third party's broker needs the nine methods and a scheme.
func ExampleRegisterBroker() {
	linda.RegisterBroker("loud", func() linda.Broker { return new(loudBroker) })

	d, err := linda.New(linda.Settings{Connection: "loud://"})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	_ = d.Push(context.Background(), greeting("world"))
	// Output: push greet to default
}

func ExampleSettings_queues() {
	ctx, stop := context.WithCancel(context.Background())
	d, err := linda.New(linda.Settings{
		Connection: "memory://", Concurrency: 1,
		Queues: []linda.Share{{Queue: "urgent"}, {Queue: "bulk"}}, Strict: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()

	d.HandleFunc("tell", func(_ context.Context, job *linda.Job) error {
		fmt.Println(job.Queue)
		if job.Queue == "bulk" {
			stop()
		}
		return nil
	})
	for _, queue := range []string{"bulk", "urgent", "urgent"} {
		if err := d.Push(ctx, &linda.Job{Queue: queue, Payload: linda.Payload{Class: "tell"}}); err != nil {
			log.Fatal(err)
		}
	}
	_ = d.Run(ctx)
	// Output:
	// urgent
	// urgent
	// bulk
}
