//! The command line as it was typed. [`crate::config`] turns it, the environment and the file into what the
//! agent runs with.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Names the service that is the cause when a gRPC system misbehaves, without touching anyone's code.
#[derive(Debug, Parser)]
#[command(name = "faultline", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  faultline check                        what this kernel and these privileges allow
  sudo faultline run                     watch this node; http://127.0.0.1:9464/ shows the map
  faultline top                          the suspects and their evidence, live
  sudo faultline record slow.rec --seconds 60
  faultline replay slow.rec              the same report again, anywhere, without privileges

Exit status: 0 done, 1 failed, 2 wrong usage or configuration.";

const RUN_EXAMPLES: &str = "\
Each flag may also be given as an environment variable (FAULTLINE_LISTEN, FAULTLINE_STEP, ...) or as a key
of the TOML file that --config names (listen, step, ...; names as a table). The flag wins over the
variable, the variable over the file.

Memory: every table has a bound, and what does not fit is counted as lost, by reason, and shown. With the
defaults the agent takes about 60 MB for a hundred services, and at most 640 MB where every table is full:
a thousand services with four thousand edges have 250 MB of history after half an hour, 10,000 connections
take 120 MB, twice --ring-size is the ring. Fewer --max-services lower it. The kernel adds the ring, tables
of 2 MB, and 1 KB for each socket.

Examples:
  faultline run --listen 0.0.0.0:9464 --node \"$(hostname)\"
  faultline run --name '*/cart.service=cart' --name '/batch/*=batch'
  faultline run --config /etc/faultline.toml --record /var/tmp/node.rec";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch this node, and serve what is seen.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunFlags),
    /// Show a running agent's suspects, services and graph.
    #[command(after_help = TOP_EXAMPLES)]
    Top(TopFlags),
    /// Watch this node and write what is seen to a file, until stopped.
    Record(RecordFlags),
    /// Run a recording through the same pipeline and print the report.
    Replay(ReplayFlags),
    /// Say what this kernel and these privileges allow, what is missing, and how to fix it.
    Check(CheckFlags),
}

const TOP_EXAMPLES: &str = "\
Keys: arrows or j k move, PgUp PgDn Home End jump, F6 or s sorts, / filters, space pauses, F1 or ? helps,
F10 or q leaves.

Examples:
  faultline top --url http://node-7:9464
  faultline top --once | less
  faultline top --json | jq .incident.ranking[0].service";

/// What `run` may be told. `None` means: not given here.
#[derive(Clone, Debug, Default, Args)]
pub struct RunFlags {
    /// Where to serve metrics, the report and the map [default: 127.0.0.1:9464]
    #[arg(long, env = "FAULTLINE_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Root of the cgroup v2 hierarchy to watch [default: where it is mounted]
    #[arg(long, env = "FAULTLINE_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Length of a step, 1s to 60s [default: 5s]
    #[arg(long, env = "FAULTLINE_STEP", value_name = "TIME")]
    pub step: Option<String>,
    /// Steps of baseline needed before the agent may page [default: 12]
    #[arg(long, env = "FAULTLINE_BASELINE_STEPS", value_name = "N")]
    pub baseline_steps: Option<u64>,
    /// This node's name in reports [default: the host name]
    #[arg(long, env = "FAULTLINE_NODE", value_name = "NAME")]
    pub node: Option<String>,
    /// The autoencoder's ONNX file [default: the one that was shipped, where it is found]
    #[arg(long, env = "FAULTLINE_MODEL", value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// The ONNX Runtime library (libonnxruntime.so)
    #[arg(long, env = "FAULTLINE_ONNX_RUNTIME", value_name = "FILE")]
    pub onnx_runtime: Option<PathBuf>,
    /// Write every event to this file, for `faultline replay`
    #[arg(long, env = "FAULTLINE_RECORD", value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Bytes of the ring between kernel and agent, a power of two [default: 4194304]
    #[arg(long, env = "FAULTLINE_RING_SIZE", value_name = "BYTES")]
    pub ring_size: Option<u32>,
    /// Name the service in the cgroups whose path matches; `*` stands for anything; may be repeated
    #[arg(long = "name", env = "FAULTLINE_NAMES", value_name = "PATTERN=SERVICE", value_delimiter = ',')]
    pub names: Vec<String>,
    /// Services beyond this are counted under `_OTHER` [default: 1000]
    #[arg(long, env = "FAULTLINE_MAX_SERVICES", value_name = "N")]
    pub max_services: Option<usize>,
    /// See the calls of gRPC over TLS through uprobes on OpenSSL's libssl: some microseconds for each of its
    /// reads and writes. Other TLS libraries stay encrypted
    #[arg(long, env = "FAULTLINE_TLS")]
    pub tls: bool,
    /// Only these processes, by id, name, or a cgroup path (with a `/`); `*` stands for anything; may be
    /// repeated; implies --tls [default: every process]
    #[arg(
        long = "tls-process",
        env = "FAULTLINE_TLS_PROCESSES",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    pub tls_processes: Vec<String>,
    /// What to log: error, warn, info, debug, or a filter such as `faultline=debug`; `faultline_probes=debug`
    /// are the kernel programs' own messages [default: info]
    #[arg(long, env = "FAULTLINE_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// A TOML file with the same settings
    #[arg(long, env = "FAULTLINE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What `record` may be told.
#[derive(Clone, Debug, Args)]
pub struct RecordFlags {
    /// The file to write.
    pub file: PathBuf,
    /// Stop after this many seconds [default: when interrupted]
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// As for `run`.
    #[command(flatten)]
    pub run: RunFlags,
}

/// What `replay` may be told.
#[derive(Clone, Debug, Args)]
pub struct ReplayFlags {
    /// The recording.
    pub file: PathBuf,
    /// Print the last report as JSON
    #[arg(long)]
    pub json: bool,
    /// Print every report as JSON, one a line
    #[arg(long, conflicts_with = "json")]
    pub all: bool,
    /// The autoencoder's ONNX file that the live run had
    #[arg(long, env = "FAULTLINE_MODEL", value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// The ONNX Runtime library
    #[arg(long, env = "FAULTLINE_ONNX_RUNTIME", value_name = "FILE")]
    pub onnx_runtime: Option<PathBuf>,
}

/// What `top` may be told.
#[derive(Clone, Debug, Args)]
pub struct TopFlags {
    /// The agent to ask
    #[arg(long, env = "FAULTLINE_URL", default_value = "http://127.0.0.1:9464")]
    pub url: String,
    /// Print the report once as plain text and leave
    #[arg(long)]
    pub once: bool,
    /// Print the report as JSON and leave
    #[arg(long, conflicts_with = "once")]
    pub json: bool,
}

/// What `check` may be told.
#[derive(Clone, Debug, Args)]
pub struct CheckFlags {
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
    /// As for `run`.
    #[command(flatten)]
    pub run: RunFlags,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
