//! Ways on which bytes pass that the kernel programs cannot see whole: MPTCP, and sockets spliced by other BPF
//! programs. What the kernel says of them flows in, one [`Way`] each flows out, for `check`. Of MPTCP the programs
//! themselves tell whose connections use it; of spliced sockets nothing but this tells the report.

use super::probes::clock;
use aya::programs::loaded_programs;
use faultline_core::event::{Event, Missing};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Programs come and go with deployments, not with calls.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Types of programs that pass bytes from socket to socket, as the kernel numbers them: SK_SKB and SK_MSG. TCP then
/// counts none of these bytes, so nothing else would tell of them.
const SPLICING: [u32; 2] = [14, 16];

/// A way that is not seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Its name in reports.
    pub part: &'static str,
    /// What goes that way; `None` for nothing.
    pub used: Option<String>,
    /// What to do about it.
    pub fix: &'static str,
}

/// Every way, as of now.
#[must_use]
pub fn look() -> [Way; 2] {
    [mptcp(), spliced()]
}

/// Tells what is new about spliced sockets until nobody receives or `stop` becomes true.
pub async fn run(events: mpsc::Sender<Event>, mut stop: watch::Receiver<bool>) {
    let mut told = None;
    loop {
        let way = spliced();
        if way.used != told {
            let missing = Missing {
                at: clock::now(),
                part: way.part.into(),
                reason: way.used.as_deref().unwrap_or_default().into(),
                fix: way.fix.into(),
            };
            if events.send(Event::Missing(missing)).await.is_err() {
                return;
            }
            told = way.used;
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn mptcp() -> Way {
    let table = std::fs::read_to_string("/proc/net/protocols").unwrap_or_default();
    let sockets = mptcp_sockets(&table);
    Way {
        part: "mptcp",
        used: (sockets > 0).then(|| {
            format!(
                "{sockets} MPTCP sockets are open in this network namespace, those that listen among them: services \
                 whose connections use it are masked"
            )
        }),
        fix: "services that are to be seen should use plain TCP on this network",
    }
}

/// How many sockets a table of protocols counts for MPTCP.
fn mptcp_sockets(table: &str) -> u64 {
    let counts = table.lines().filter(|line| line.starts_with("MPTCP"));
    counts.filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

fn spliced() -> Way {
    // Listing programs takes more privileges than running does; who has them not cannot tell.
    let programs = loaded_programs().filter_map(Result::ok);
    let names: Vec<String> = programs
        .filter(|program| SPLICING.contains(&(program.program_type() as u32)))
        .map(|program| program.name_as_str().unwrap_or("unnamed").to_owned())
        .take(8)
        .collect();
    Way {
        part: "spliced sockets",
        used: (!names.is_empty()).then(|| {
            format!(
                "the BPF programs {} may pass bytes from socket to socket, where no hook lies and TCP counts \
                 nothing",
                names.join(", ")
            )
        }),
        fix: "turn the socket acceleration of the mesh or network plug-in off where calls are to be seen",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_of_protocols() {
        let table = "protocol  size sockets  memory press maxhdr  slab module     cl co di ac\n\
                     MPTCPv6   2064      1      88   no       0   yes  kernel      y  y  y  n\n\
                     MPTCP     1900      2      88   no       0   yes  kernel      y  y  y  n\n\
                     TCP       2400     17       4   no     320   yes  kernel      y  y  y  y\n";
        assert_eq!(mptcp_sockets(table), 3);
        assert_eq!(mptcp_sockets(""), 0);
    }
}
