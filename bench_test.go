package linda

import "testing"

func smallJob() *Job {
	return &Job{Payload: Payload{Class: "resize", Args: []any{"cat.png", 640}}}
}

func BenchmarkEncode(b *testing.B) {
	job := smallJob()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encode(job, "images"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, body := range map[string]string{
		"popped": `{"linda":{"id":"0199d8a7-2f7e-7c53-9a43-000000000001","n":1},"queue":"images","Payload":{"class":"resize","args":["cat.png",640]}}`,
		"plain":  `{"queue":"images","Payload":{"class":"resize","args":["cat.png",640]}}`,
		"failed": `{"linda":{"id":"0199d8a7-2f7e-7c53-9a43-000000000001","n":2,"s":1,"f":1,"err":"no such cat"},"queue":"images","Payload":{"class":"resize","args":["cat.png",640]}}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode("images", body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSettlementBody(b *testing.B) {
	job, _ := Decode("images", `{"linda":{"id":"0199d8a7-2f7e-7c53-9a43-000000000001","n":1},"queue":"images","Payload":{"class":"resize","args":["cat.png",640]}}`)
	s := Settlement{Job: job, Op: OpRelease, Reason: "no such cat"}
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Body()
	}
}

func BenchmarkPayloadDecode(b *testing.B) {
	job, _ := Decode("images", `{"queue":"images","Payload":{"class":"resize","args":["cat.png",640]}}`)
	b.ReportAllocs()
	for b.Loop() {
		var file string
		var width int
		if err := job.Payload.Decode(&file, &width); err != nil {
			b.Fatal(err)
		}
	}
}
