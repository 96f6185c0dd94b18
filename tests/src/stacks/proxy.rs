//! A real nginx or haproxy between a client and a server: its own two ends are under the agent too.

use super::peers::Peer;
use crate::agent::{PATIENCE, free_port};
use faultline_core::units::CgroupId;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Both listeners are deferred (TCP_DEFER_ACCEPT): the handshake's end comes with the preface.
const NGINX: &str = "
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

/// Its buffers hold the scenario's largest header block.
const HAPROXY: &str = "
global
  maxconn 8192
  tune.bufsize 131072
  tune.h2.max-concurrent-streams 2000
defaults
  mode http
  timeout connect 20s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:@FRONT@ proto h2 defer-accept
  default_backend back
backend back
  server peer 127.0.0.1:@BACK@ proto h2
";

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// nginx: a connection of its own for each call.
    Nginx,
    /// haproxy: calls share connections, and it passes `:authority` on.
    Haproxy,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// Starts it with a configuration. Debian installs both where only root's PATH looks.
    fn command(self, folder: &Path, configuration: &Path) -> Command {
        let mut command = Command::new(format!("/usr/sbin/{}", self.name()));
        match self {
            Self::Nginx => command.arg("-p").arg(folder).arg("-c").arg(configuration),
            Self::Haproxy => command.arg("-db").arg("-f").arg(configuration),
        };
        command
    }
}

/// A running proxy.
pub struct Proxy {
    peer: Peer,
    /// Where it listens.
    pub port: u16,
    /// What it calls the server behind it, if not what its client does.
    pub authority: Option<String>,
}

impl Proxy {
    /// Starts one in front of a server.
    ///
    /// # Errors
    /// What it wrote instead of listening.
    ///
    /// # Panics
    /// When its configuration cannot be written.
    pub fn start(kind: Kind, back: u16, folder: &Path) -> Result<Self, String> {
        let port = free_port();
        let (template, authority) = match kind {
            Kind::Nginx => (NGINX, Some(format!("127.0.0.1:{back}"))),
            Kind::Haproxy => (HAPROXY, None),
        };
        let configuration = template
            .replace("@FOLDER@", &folder.to_string_lossy())
            .replace("@FRONT@", &port.to_string())
            .replace("@BACK@", &back.to_string());
        let file = folder.join("proxy.conf");
        fs::write(&file, configuration).unwrap();
        let peer = Peer::run("proxy", &mut kind.command(folder, &file), folder);
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if started.elapsed() > PATIENCE {
                return Err(format!("{} does not listen: {}", kind.name(), peer.log()));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(Self { peer, port, authority })
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> CgroupId {
        self.peer.cgroup()
    }
}
