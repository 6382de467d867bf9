// Package docs_test holds the documents to the code.
package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheFileMapNamesEveryFile(t *testing.T) {
	t.Parallel()
	var files []string
	for _, pattern := range []string{"../*.go", "../lua/*.lua"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range found {
			if !strings.HasSuffix(file, "_test.go") {
				files = append(files, strings.TrimPrefix(filepath.ToSlash(file), "../"))
			}
		}
	}
	_, section, found := strings.Cut(read(t, "design.md"), "\n## The files\n")
	require.True(t, found, "design.md has a section The files")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+\\.(?:go|lua))` \\|").FindAllStringSubmatch(section, -1) {
		rows[row[1]] = true
	}
	for _, file := range files {
		require.True(t, rows[file], "%s has a row in the map of design.md", file)
		delete(rows, file)
	}
	require.Empty(t, rows, "rows of the map without a file")
}

func TestEveryBlockOfGoCompiles(t *testing.T) {
	t.Parallel()
	for _, document := range []string{"../README.md", "design.md", "brokers.md"} {
		for i, block := range goBlocks(read(t, document)) {
			t.Run(filepath.Base(document)+" "+strconv.Itoa(i+1), func(t *testing.T) {
				t.Parallel()
				file := filepath.Join(t.TempDir(), "main.go")
				require.NoError(t, os.WriteFile(file, []byte(program(block)), 0o600))
				out, err := exec.CommandContext(t.Context(), "go", "vet", file).CombinedOutput()
				require.NoError(t, err, "%s\n%s", out, block)
			})
		}
	}
}

func TestTheREADMEShowsTheExamples(t *testing.T) {
	t.Parallel()
	blocks := goBlocks(read(t, "../README.md"))
	for i, example := range []string{"push", "worker"} {
		var missing []string
		source := read(t, "../examples/"+example+"/main.go")
		for line := range strings.Lines(blocks[i]) {
			switch text := strings.TrimSpace(line); {
			case strings.Contains(text, "redis://"), strings.Contains(text, "ReleaseWithDelay"), strings.Contains(text, "fmt.Println"):
				// the example reads these values from its environment, and tells the time
			case text != "" && !strings.Contains(source, text):
				missing = append(missing, text)
			}
		}
		require.Empty(t, missing, "lines of the README that are not in examples/%s", example)
	}
}

func TestEveryLinkLeadsToAFile(t *testing.T) {
	t.Parallel()
	documents, err := filepath.Glob("*.md")
	require.NoError(t, err)
	top, err := filepath.Glob("../*.md")
	require.NoError(t, err)
	for _, document := range slices.Concat(documents, top) {
		text := code.ReplaceAllString(read(t, document), "")
		for _, link := range regexp.MustCompile(`\]\(([\w./:-]+)\)`).FindAllStringSubmatch(text, -1) {
			if !strings.Contains(link[1], "://") {
				require.FileExists(t, filepath.Join(filepath.Dir(document), link[1]), document)
			}
		}
	}
}

func TestTheTwentyFailuresHaveTheTestsThatAreNamed(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("../brokertest/cases_*.go")
	require.NoError(t, err)
	suite := ""
	for _, file := range cases {
		suite += read(t, file)
	}
	rows := regexp.MustCompile(`(?m)^\| F(\d+) \| (.+) \| (.+) \|$`).FindAllStringSubmatch(read(t, "reliability.md"), -1)
	require.Len(t, rows, 20)
	for i, row := range rows {
		require.Equal(t, strconv.Itoa(i+1), row[1])
		tests := regexp.MustCompile("`([^`]+):([^`:]+)`").FindAllStringSubmatch(row[3], -1)
		require.NotEmpty(t, tests, row[0])
		require.Len(t, tests, strings.Count(row[3], "`")/2, "%s: each is file:TestName or brokertest:case", row[3])
		for _, test := range tests {
			if test[1] == "brokertest" {
				require.Contains(t, suite, `{name: "`+test[2]+`"`, "F%d", i+1)
			} else {
				require.Contains(t, read(t, "../"+test[1]), "\nfunc "+test[2]+"(t *testing.T) {", "F%d", i+1)
			}
		}
	}
}

var code = regexp.MustCompile("(?s)```.*?```|`[^`]*`")

func read(t *testing.T, file string) string {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(text)
}

func goBlocks(document string) []string {
	var blocks []string
	for _, match := range regexp.MustCompile("(?ms)^```go\n(.*?)^```").FindAllStringSubmatch(document, -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}

// program returns a block as a program: with a package and imports, unless it
// has its own.
func program(block string) string {
	if strings.HasPrefix(block, "package ") {
		return block
	}
	text := "package main\n\nimport (\n"
	if strings.Contains(block, "neturl.") {
		text += "\tneturl \"net/url\"\n"
	}
	for _, path := range []string{
		"context", "errors", "fmt", "log", "log/slog", "testing", "time",
		"github.com/amlun/linda", "github.com/amlun/linda/brokertest",
	} {
		if regexp.MustCompile(`\b` + filepath.Base(path) + `\.[A-Z]`).MatchString(block) {
			text += "\t" + strconv.Quote(path) + "\n"
		}
	}
	text += ")\n\n" + block
	if !strings.Contains(block, "func main(") {
		text += "\nfunc main() {}\n"
	}
	return text
}
