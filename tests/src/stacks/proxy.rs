//! A real nginx between a client and a server: its own two ends are under the agent too.

use super::peers::Peer;
use crate::agent::free_port;
use faultline_core::units::CgroupId;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Debian installs it where only root's PATH looks.
const PROGRAM: &str = "/usr/sbin/nginx";

/// What it is told. Its listener is deferred (TCP_DEFER_ACCEPT): the handshake's end comes with the preface.
const CONFIGURATION: &str = "
daemon off;
master_process off;
user root;
error_log stderr;
pid @FOLDER@/nginx.pid;
worker_rlimit_nofile 16384;
events { worker_connections 8192; }
http {
  access_log off;
  client_body_temp_path @FOLDER@/body;
  client_max_body_size 0;
  large_client_header_buffers 16 64k;
  http2_max_concurrent_streams 2000;
  keepalive_requests 1000000;
  server {
    listen 127.0.0.1:@FRONT@ http2 deferred;
    location / {
      grpc_pass grpc://127.0.0.1:@BACK@;
      grpc_buffer_size 128k;
      grpc_read_timeout 60s;
      grpc_send_timeout 60s;
    }
  }
}
";

/// A running nginx.
pub struct Proxy {
    peer: Peer,
    /// Where it listens.
    pub port: u16,
    /// What it calls the server behind it.
    pub authority: String,
}

impl Proxy {
    /// Starts one in front of a server.
    ///
    /// # Errors
    /// What it wrote instead of listening.
    ///
    /// # Panics
    /// When its configuration cannot be written.
    pub fn start(back: u16, folder: &Path) -> Result<Self, String> {
        let port = free_port();
        let configuration = CONFIGURATION
            .replace("@FOLDER@", &folder.to_string_lossy())
            .replace("@FRONT@", &port.to_string())
            .replace("@BACK@", &back.to_string());
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("-p").arg(folder).arg("-c").arg(&file);
        let peer = Peer::run("proxy", &mut command, folder);
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if started.elapsed() > Duration::from_secs(20) {
                return Err(format!("nginx does not listen: {}", peer.log()));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(Self { peer, port, authority: format!("127.0.0.1:{back}") })
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> CgroupId {
        self.peer.cgroup()
    }
}
