// The generic service in Go (grpc-go): a spec comes in on the command line, calls on a port, behaviour
// on standard input; truth lines go out. It does what bench/src/service does in Rust.
// Work, leaks and truth files are in work.go, Redis in redis.go.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The one message of the playground, `message Parcel { bytes payload = 1; }`, is on the wire what the
// well-known BytesValue is.
type parcel = wrapperspb.BytesValue

type callSpec struct {
	Peer         string `json:"peer"`
	Path         string `json:"path"`
	RequestBytes int    `json:"request_bytes"`
	DeadlineMs   int    `json:"deadline_ms"`
	Optional     bool   `json:"optional"`
}

type methodSpec struct {
	ResponseBytes int         `json:"response_bytes"`
	CpuUs         int         `json:"cpu_us"`
	SleepMs       float64     `json:"sleep_ms"`
	AllocateBytes int         `json:"allocate_bytes"`
	Parallel      bool        `json:"parallel"`
	Redis         []redisSpec `json:"redis"`
	Calls         []callSpec  `json:"calls"`
}

type serviceSpec struct {
	Service string            `json:"service"`
	Listen  string            `json:"listen"`
	Truth   string            `json:"truth"`
	Sent    string            `json:"sent"`
	Seed    int64             `json:"seed"`
	Redis   map[string]string `json:"redis"`
	Peers   map[string]struct {
		Address   string `json:"address"`
		Authority string `json:"authority"`
	} `json:"peers"`
	Methods map[string]methodSpec `json:"methods"`
}

type app struct {
	methods map[string]methodSpec
	peers   map[string]*grpc.ClientConn
	redis   map[string]*redis
	misery  *misbehaviour
	truth   *lines
	sent    *lines
	lock    sync.Mutex
	random  *rand.Rand
}

// Names of the gRPC status codes, in order of their numbers.
var codeNames = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
	"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

func codeName(err error) string {
	code := int(status.Code(err))
	if code < len(codeNames) {
		return codeNames[code]
	}
	return "UNKNOWN"
}

func (a *app) chance() float64 {
	a.lock.Lock()
	defer a.lock.Unlock()
	return a.random.Float64()
}

// One call: misbehave as told, work, use Redis, call others, answer.
func (a *app) answer(ctx context.Context, method methodSpec) (*parcel, error) {
	behaviour := a.misery.now()
	if behaviour.LatencyMs > 0 {
		time.Sleep(time.Duration(behaviour.LatencyMs * float64(time.Millisecond)))
	}
	if behaviour.ErrorFraction > 0 && a.chance() < behaviour.ErrorFraction {
		return nil, status.Error(codes.Code(behaviour.ErrorCode), "injected")
	}
	if method.SleepMs > 0 {
		time.Sleep(time.Duration(method.SleepMs * (0.7 + 0.6*a.chance()) * float64(time.Millisecond)))
	}
	a.misery.walk(behaviour.LeakWalks)
	burn(method.CpuUs)
	allocate(method.AllocateBytes)
	for _, step := range method.Redis {
		key := fmt.Sprintf("k%d", int(a.chance()*float64(step.Keys)))
		if err := a.askRedis(ctx, step, key); err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	if err := a.callOthers(ctx, method); err != nil {
		return nil, err
	}
	return &parcel{Value: payload(method.ResponseBytes)}, nil
}

// One Redis command, with its line of truth.
func (a *app) askRedis(ctx context.Context, step redisSpec, key string) error {
	started := time.Now()
	err := a.redis[step.Instance].run(ctx, step, key)
	line := sentLine{
		TMs: started.UnixMilli(), Callee: step.Instance, Method: strings.ToUpper(step.Operation), Status: "OK",
		Seconds: time.Since(started).Seconds(),
	}
	if err != nil {
		line.Status = "UNAVAILABLE"
	}
	if step.Operation == "set" {
		line.RequestBytes = step.Bytes
	}
	a.sent.write(line)
	return err
}

func (a *app) callOthers(ctx context.Context, method methodSpec) error {
	if !method.Parallel {
		for _, call := range method.Calls {
			if err := a.call(ctx, call); err != nil && !call.Optional {
				return err
			}
		}
		return nil
	}
	failures := make(chan error, len(method.Calls))
	for _, call := range method.Calls {
		go func() {
			err := a.call(ctx, call)
			if call.Optional {
				err = nil
			}
			failures <- err
		}()
	}
	var first error
	for range method.Calls {
		if err := <-failures; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// One outgoing call, with its line of truth.
func (a *app) call(ctx context.Context, call callSpec) error {
	request := &parcel{Value: payload(call.RequestBytes)}
	response := &parcel{}
	started := time.Now()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(call.DeadlineMs)*time.Millisecond)
	defer cancel()
	err := a.peers[call.Peer].Invoke(ctx, call.Path, request, response)
	a.sent.write(sentLine{
		TMs: started.UnixMilli(), Callee: call.Peer, Method: call.Path, Status: codeName(err),
		RequestBytes: proto.Size(request), ResponseBytes: proto.Size(response),
		Seconds: time.Since(started).Seconds(),
	})
	if err != nil {
		return status.Errorf(status.Code(err), "%s%s: %s", call.Peer, call.Path, status.Convert(err).Message())
	}
	return nil
}

// One served call, with its line of truth.
func (a *app) serve(ctx context.Context, path string, request *parcel) (*parcel, error) {
	started := time.Now()
	response, err := a.answer(ctx, a.methods[path])
	line := servedLine{
		TMs: started.UnixMilli(), Method: path, Status: codeName(err), Ended: true,
		RequestBytes: proto.Size(request), Seconds: time.Since(started).Seconds(),
	}
	if ctx.Err() != nil {
		line.Ended = false
		line.Status = codeName(status.FromContextError(ctx.Err()).Err())
	} else if err == nil {
		line.ResponseBytes = proto.Size(response)
	}
	a.truth.write(line)
	return response, err
}

// Registers each path of the spec as a unary method; no generated code is needed.
func (a *app) register(server *grpc.Server) {
	services := map[string]*grpc.ServiceDesc{}
	for path := range a.methods {
		service, method, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		if services[service] == nil {
			services[service] = &grpc.ServiceDesc{ServiceName: service, HandlerType: (*any)(nil)}
		}
		handle := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			request := &parcel{}
			if err := decode(request); err != nil {
				return nil, err
			}
			return a.serve(ctx, path, request)
		}
		services[service].Methods = append(services[service].Methods, grpc.MethodDesc{MethodName: method, Handler: handle})
	}
	for _, service := range services {
		server.RegisterService(service, a)
	}
}

func payload(bytes int) []byte {
	filled := make([]byte, bytes)
	for index := range filled {
		filled[index] = 'x'
	}
	return filled
}

func main() {
	path := flag.String("spec", "", "the service's spec")
	flag.Parse()
	text, err := os.ReadFile(*path)
	if err != nil {
		log.Fatal(err)
	}
	var spec serviceSpec
	if err := json.Unmarshal(text, &spec); err != nil {
		log.Fatalf("%s: %v", *path, err)
	}
	a := &app{
		methods: spec.Methods, peers: map[string]*grpc.ClientConn{}, redis: map[string]*redis{},
		misery: &misbehaviour{}, random: rand.New(rand.NewSource(spec.Seed)),
		truth: appendLines(spec.Truth), sent: appendLines(spec.Sent),
	}
	retry := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second},
		MinConnectTimeout: time.Second,
	}
	for name, peer := range spec.Peers {
		connection, err := grpc.NewClient("passthrough:///"+peer.Address,
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(peer.Authority),
			grpc.WithConnectParams(retry), grpc.WithIdleTimeout(0))
		if err != nil {
			log.Fatal(err)
		}
		a.peers[name] = connection
	}
	for name, address := range spec.Redis {
		a.redis[name] = newRedis(address)
	}
	calibrate()
	go a.misery.grow()
	listener, err := net.Listen("tcp", spec.Listen)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	a.register(server)
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Fatal(err)
		}
	}()
	fmt.Println("ready")
	a.untilTold()
	done := make(chan struct{})
	go func() { server.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
	a.truth.flush()
	a.sent.flush()
}

// Follows behaviour lines until standard input ends or a signal comes.
func (a *app) untilTold() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		input := bufio.NewScanner(os.Stdin)
		for input.Scan() {
			var next behaviour
			if err := json.Unmarshal(input.Bytes(), &next); err != nil {
				log.Printf("a command was not understood: %v: %s", err, input.Text())
				continue
			}
			a.misery.becomeLike(next)
		}
		close(ended)
	}()
	select {
	case <-signals:
	case <-ended:
	}
}
