//! What the agent cannot see, it says: real TLS, a real protocol that is not HTTP/2, a real unix socket, real MPTCP.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use e2e::agent::{Agent, PATIENCE, service};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A server and a client of it, both by Python's standard library, in a cgroup of their own each.
struct Service {
    child: Child,
    out: BufReader<ChildStdout>,
    cgroup: PathBuf,
}

/// Where cgroup v2 is mounted.
fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup v2 mount");
    PathBuf::from(line.split(' ').nth(4).unwrap())
}

impl Service {
    /// Runs a script in the new cgroup `name`.
    fn start(name: &str, script: &str, arguments: &[&str]) -> Self {
        let cgroup = cgroups().join(name);
        fs::create_dir_all(&cgroup).unwrap();
        // The script waits for a line, so that not a byte passes before it is in its cgroup.
        let mut child = Command::new("python3")
            .args(["-c", &format!("import sys; sys.stdin.readline()\n{TALK}{script}")])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out, cgroup }
    }

    /// The next line it prints.
    fn says(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _status = self.child.wait();
        // The kernel may still be letting go of the process.
        let ended = Instant::now();
        while fs::remove_dir(&self.cgroup).is_err() && ended.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What every script may call.
const TALK: &str = r#"
import socket, ssl, threading, time

def echo(server, accepted=lambda peer: peer):
    """Prints its port and gives back what it gets, for ever."""
    print(server.getsockname()[1], flush=True)
    def serve(peer):
        peer = accepted(peer)
        while data := peer.recv(65536):
            peer.sendall(data)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

def ask(server):
    """Asks ten times a second, for ever."""
    while True:
        server.sendall(b"GET something\r\n" * 20); server.recv(65536); time.sleep(0.1)
"#;

/// Echoes over TCP, or over the protocol of the first argument.
const ECHO: &str = r#"
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
server.bind(("127.0.0.1", 0)); server.listen()
echo(server)
"#;

/// Asks the echo at a port, over the protocol of the second argument.
const ASK: &str = r#"
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
server.connect(("127.0.0.1", int(sys.argv[1])))
ask(server)
"#;

/// The same over TLS, with a certificate of its own.
const TLS_ECHO: &str = r#"
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain(sys.argv[1])
echo(socket.create_server(("127.0.0.1", 0)), lambda peer: context.wrap_socket(peer, server_side=True))
"#;

const TLS_ASK: &str = r#"
ask(ssl._create_unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1])))))
"#;

/// Serves TCP and a unix socket; one connection over the unix socket stays.
const BOTH: &str = r#"
unix = socket.socket(socket.AF_UNIX); unix.bind(sys.argv[1]); unix.listen()
near = socket.socket(socket.AF_UNIX); near.connect(sys.argv[1]); far, _ = unix.accept()
echo(socket.create_server(("127.0.0.1", 0)))
"#;

fn bytes(report: &Value, name: &str, fate: &str) -> u64 {
    service(report, name).map_or(0, |service| service["seen"]["bytes"][fate].as_u64().unwrap_or(0))
}

fn masked<'a>(report: &'a Value, name: &str) -> Option<&'a str> {
    service(report, name)?["masked"].as_str()
}

#[test]
fn tls_is_encrypted_and_masked_and_another_protocol_is_timed() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("both.pem");
    let certificate = certificate.to_str().unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=seen"])
        .args(["-keyout", certificate, "-out", &format!("{certificate}.crt")])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let both =
        fs::read_to_string(certificate).unwrap() + &fs::read_to_string(format!("{certificate}.crt")).unwrap();
    fs::write(certificate, both).unwrap();

    let agent = Agent::start(&["--step", "1s"]);
    let mut hidden = Service::start("seen-hidden", TLS_ECHO, &[certificate]);
    let _asks_hidden = Service::start("seen-hidden-client", TLS_ASK, &[&hidden.says()]);
    let mut plain = Service::start("seen-plain", ECHO, &[]);
    let _asks_plain = Service::start("seen-plain-client", ASK, &[&plain.says()]);
    let report = agent.until(|report| {
        bytes(report, "seen-hidden", "encrypted") > 20_000 && bytes(report, "seen-plain", "timed") > 20_000
    });
    assert!(masked(&report, "seen-hidden").is_some_and(|why| why.starts_with("encrypted: ")), "{report:#}");
    assert!(masked(&report, "seen-hidden-client").is_some_and(|why| why.starts_with("encrypted: ")));
    let ratio = |name: &str| service(&report, name).unwrap()["seen"]["ratio"].as_f64().unwrap();
    assert!(ratio("seen-hidden") < 0.05, "{}", ratio("seen-hidden"));
    // A protocol that is timed is judged by its exchanges.
    assert_eq!((masked(&report, "seen-plain"), ratio("seen-plain")), (None, 1.0));
    let ranking = report["ranking"].to_string();
    assert!(!ranking.contains("seen-hidden"), "{ranking}");
    let metrics = agent.get("/metrics").unwrap();
    assert!(metrics.contains("faultline_coverage_ratio{service=\"seen-plain\"} 1.0"), "{metrics}");
    assert!(metrics.contains("faultline_payload_bytes_total{service=\"seen-hidden\",fate=\"encrypted\"}"));
    assert!(metrics.contains("faultline_service_masked{service=\"seen-hidden\"} 1.0"));
}

#[test]
fn a_service_that_serves_over_a_unix_socket_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grpc.sock");
    let mut both = Service::start("seen-unix", BOTH, &[path.to_str().unwrap()]);
    let _asks = Service::start("seen-unix-client", ASK, &[&both.says()]);
    let agent = Agent::start(&["--step", "1s"]);
    let report = agent.until(|report| {
        service(report, "seen-unix").is_some_and(|both| both["seen"]["unix_connections"] == 1)
    });
    assert_eq!(
        masked(&report, "seen-unix"),
        Some("it serves 1 connections over unix sockets, which are not seen")
    );
    let client = service(&report, "seen-unix-client").unwrap();
    assert_eq!((&client["seen"]["unix_connections"], &client["masked"]), (&Value::from(0), &Value::Null));
}

#[test]
fn mptcp_is_masked_and_plain_tcp_to_the_same_server_is_not() {
    const MPTCP: &str = "262";
    if fs::read_to_string("/proc/sys/net/mptcp/enabled").is_ok_and(|on| on.trim() == "1") {
        let agent = Agent::start(&["--step", "1s"]);
        let mut server = Service::start("seen-mptcp", ECHO, &[MPTCP]);
        let _asks = Service::start("seen-mptcp-client", ASK, &[&server.says(), MPTCP]);
        // Whom its client does not ask for several paths, it serves by one.
        let mut both = Service::start("seen-fallback", ECHO, &[MPTCP]);
        let _asks_plain = Service::start("seen-fallback-client", ASK, &[&both.says()]);
        let report = agent.until(|report| {
            bytes(report, "seen-mptcp", "multipath") > 20_000
                && bytes(report, "seen-fallback", "timed") > 20_000
        });
        for name in ["seen-mptcp", "seen-mptcp-client"] {
            assert!(masked(&report, name).is_some_and(|why| why.contains("MPTCP")), "{report:#}");
        }
        for name in ["seen-fallback", "seen-fallback-client"] {
            assert_eq!((masked(&report, name), bytes(&report, name, "multipath")), (None, 0), "{report:#}");
        }
        assert_eq!(report["coverage"]["connections"]["mptcp"], 2);
        let check = e2e::agent::faultline(&["check"]);
        let said = String::from_utf8(check.stdout).unwrap();
        assert!(said.contains("MPTCP sockets are open"), "{said}");
    } else {
        eprintln!("this kernel has no MPTCP");
    }
}
