// Checks a proof, or the growth between two checkpoints, with golang.org/x/mod/sumdb: the code by
// which Go checks its own checksum database. Debian has it in golang-golang-x-mod-dev.
//
//	verify VKEY inclusion PROOF
//	verify VKEY consistency OLD_CHECKPOINT GROWTH
package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(path string) string {
	data, err := os.ReadFile(path)
	must(err)
	return string(data)
}

// split returns the lines before the checkpoint, and the checkpoint.
func split(path string) ([]string, string) {
	head, checkpoint, found := strings.Cut(read(path), "\n\n")
	if !found {
		must(fmt.Errorf("the file has no checkpoint"))
	}
	return strings.Split(head, "\n"), checkpoint
}

func open(checkpoint string, verifier note.Verifier) tlog.Tree {
	opened, err := note.Open([]byte(checkpoint), note.VerifierList(verifier))
	must(err)
	lines := strings.Split(opened.Text, "\n")
	if lines[0] != verifier.Name() {
		must(fmt.Errorf("the checkpoint is of %s", lines[0]))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := tlog.ParseHash(lines[2])
	must(err)
	return tlog.Tree{N: size, Hash: root}
}

func hashes(lines []string) []tlog.Hash {
	var found []tlog.Hash
	for _, line := range lines {
		hash, err := tlog.ParseHash(line)
		must(err)
		found = append(found, hash)
	}
	return found
}

func inclusion(proof string, verifier note.Verifier) {
	head, checkpoint := split(proof)
	tree := open(checkpoint, verifier)
	line, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(head[1], "extra "))
	must(err)
	index, err := strconv.ParseInt(strings.TrimPrefix(head[2], "index "), 10, 64)
	must(err)
	path := tlog.RecordProof(hashes(head[3:]))
	must(tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(line)))
}

func consistency(old string, growth string, verifier note.Verifier) {
	head, checkpoint := split(growth)
	before, after := open(read(old), verifier), open(checkpoint, verifier)
	path := tlog.TreeProof(hashes(head[1:]))
	must(tlog.CheckTree(path, after.N, after.Hash, before.N, before.Hash))
}

func main() {
	verifier, err := note.NewVerifier(os.Args[1])
	must(err)
	if os.Args[2] == "inclusion" {
		inclusion(os.Args[3], verifier)
	} else {
		consistency(os.Args[3], os.Args[4], verifier)
	}
}
