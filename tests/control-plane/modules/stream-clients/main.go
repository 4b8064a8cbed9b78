// Command stream-clients asks a pod on a virtual node for everything that client-go can stream: exec over SPDY and
// over WebSocket, port-forward over SPDY and over SPDY in a WebSocket. The pod is the mock provider's, whose
// container has a small shell and declares port 80.
//
//	stream-clients NAMESPACE POD CONTAINER
//
// It finds the API server by KUBECONFIG, prints a line for everything that held, and fails at the first that does not.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

const patience = 2 * time.Minute

type pod struct {
	config                     *rest.Config
	namespace, name, container string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "stream-clients:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 4 {
		return errors.New("usage: stream-clients NAMESPACE POD CONTAINER")
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	p := pod{config, os.Args[1], os.Args[2], os.Args[3]}
	executors := []struct {
		name string
		make func(*url.URL) (remotecommand.Executor, error)
	}{
		{"NewSPDYExecutor", func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
		}},
		{"NewWebSocketExecutor", func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(config, http.MethodGet, u.String())
		}},
	}
	for _, executor := range executors {
		if err := p.execs(executor.make); err != nil {
			return fmt.Errorf("%s: %w", executor.name, err)
		}
		fmt.Println("holds:", executor.name)
	}
	dialers := []struct {
		name string
		make func(*url.URL) (httpstream.Dialer, error)
	}{
		{"the SPDY dialer", func(u *url.URL) (httpstream.Dialer, error) {
			transport, upgrader, err := spdy.RoundTripperFor(config)
			if err != nil {
				return nil, err
			}
			return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u), nil
		}},
		{"the SPDY-over-WebSocket dialer", func(u *url.URL) (httpstream.Dialer, error) {
			return portforward.NewSPDYOverWebsocketDialer(u, config)
		}},
	}
	for _, dialer := range dialers {
		made, err := dialer.make(p.url("portforward", nil))
		if err == nil {
			err = p.forwards(made)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", dialer.name, err)
		}
		fmt.Println("holds:", dialer.name)
	}
	return nil
}

func (p pod) url(verb string, query url.Values) *url.URL {
	path := fmt.Sprintf("%s/api/v1/namespaces/%s/pods/%s/%s", p.config.Host, p.namespace, p.name, verb)
	u, err := url.Parse(path)
	if err != nil {
		panic(err)
	}
	u.RawQuery = query.Encode()
	return u
}

func (p pod) exec(stdin, tty bool, command ...string) *url.URL {
	query := url.Values{"container": {p.container}, "stdout": {"true"}, "command": command}
	if stdin {
		query.Set("stdin", "true")
	}
	if tty {
		query.Set("tty", "true")
	} else {
		query.Set("stderr", "true")
	}
	return p.url("exec", query)
}

// The exit codes, both outputs, input to its end and back, and a terminal that is resized.
func (p pod) execs(executor func(*url.URL) (remotecommand.Executor, error)) error {
	stream := func(u *url.URL, options remotecommand.StreamOptions) (int, error) {
		made, err := executor(u)
		if err != nil {
			return 0, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err = made.StreamWithContext(ctx, options)
		var code exec.CodeExitError
		if errors.As(err, &code) {
			return code.Code, nil
		}
		return 0, err
	}
	for _, want := range []struct {
		script, out, err string
		code             int
	}{
		{"true", "", "", 0},
		{"echo out; echo err >&2; exit 7", "out\n", "err\n", 7},
		{"nosuch", "", "sh: nosuch: not found\n", 127},
	} {
		var out, err bytes.Buffer
		code, failed := stream(p.exec(false, false, "sh", "-c", want.script), remotecommand.StreamOptions{Stdout: &out, Stderr: &err})
		if failed != nil {
			return failed
		}
		if code != want.code || out.String() != want.out || err.String() != want.err {
			return fmt.Errorf("%q: code %d, out %q, err %q", want.script, code, out.String(), err.String())
		}
	}

	sent, received := sha256.New(), sha256.New()
	input := io.TeeReader(io.LimitReader(rand.New(rand.NewSource(1)), 8<<20), sent)
	code, err := stream(p.exec(true, false, "cat"), remotecommand.StreamOptions{Stdin: input, Stdout: received, Stderr: io.Discard})
	if err != nil || code != 0 {
		return fmt.Errorf("cat: code %d, %w", code, err)
	}
	if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		return errors.New("cat: what came back is not what was sent")
	}

	keyboard, keys := io.Pipe()
	screen := &screen{changed: make(chan struct{}, 1)}
	sizes := make(sizes, 2)
	done := make(chan error, 1)
	go func() {
		options := remotecommand.StreamOptions{Stdin: keyboard, Stdout: screen, Tty: true, TerminalSizeQueue: sizes}
		code, err := stream(p.exec(true, true, "sh"), options)
		if err == nil && code != 5 {
			err = fmt.Errorf("terminal: code %d", code)
		}
		done <- err
	}()
	for _, size := range []remotecommand.TerminalSize{{Width: 101, Height: 33}, {Width: 90, Height: 20}} {
		sizes <- size
		want := fmt.Sprintf("\n%d %d\r\n", size.Height, size.Width)
		deadline := time.After(patience)
		for !strings.Contains(screen.text(), want) {
			if _, err := keys.Write([]byte("stty size\r")); err != nil {
				return err
			}
			select {
			case <-screen.changed:
			case err := <-done:
				return fmt.Errorf("terminal: ended early (%w): %q", err, screen.text())
			case <-deadline:
				return fmt.Errorf("terminal: %q does not show %q", screen.text(), want)
			}
		}
	}
	if _, err := keys.Write([]byte("exit 5\r")); err != nil {
		return err
	}
	close(sizes)
	return <-done
}

// Many connections at once, each half-closed; then a port that refuses.
func (p pod) forwards(dialer httpstream.Dialer) error {
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	forwarder, err := portforward.New(dialer, []string{"0:80", "0:81"}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		return fmt.Errorf("ended early: %w", err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	failures := make(chan error, 100)
	for n := range cap(failures) {
		go func() { failures <- ask(ports[0].Local, n) }()
	}
	for range cap(failures) {
		if err := <-failures; err != nil {
			return err
		}
	}
	refused, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[1].Local))
	if err != nil {
		return err
	}
	defer refused.Close()
	// To this client a refusal is the end of all of it; the reason goes to the log.
	select {
	case err := <-done:
		if !errors.Is(err, portforward.ErrLostConnectionToPod) {
			return fmt.Errorf("a refused port: %w", err)
		}
	case <-time.After(patience):
		return errors.New("a refused port is not told")
	}
	return nil
}

func ask(port uint16, n int) error {
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(connection, "GET /%d HTTP/1.1\r\nConnection: close\r\n\r\n", n); err != nil {
		return err
	}
	if err := connection.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(connection)
	if err != nil {
		return err
	}
	if !strings.Contains(string(answer), fmt.Sprintf("GET /%d HTTP/1.1\n", n)) {
		return fmt.Errorf("connection %d was answered %q", n, answer)
	}
	return nil
}

// What was written, for a reader that waits for it.
type screen struct {
	mutex   sync.Mutex
	written bytes.Buffer
	changed chan struct{}
}

func (s *screen) Write(p []byte) (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return s.written.Write(p)
}

func (s *screen) text() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.written.String()
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, open := <-s
	if !open {
		return nil
	}
	return &size
}
