//! One end of the traffic that `playground cost` measures over TLS; it starts this program and tells it what to do.
//! A program of its own, so that the playground builds without OpenSSL's headers.

use std::process::ExitCode;

use playground::cost::traffic::{self, Wire};

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("serve") => traffic::serve(Wire::Tls),
        Some("drive") => traffic::drive(Wire::Tls),
        Some("libraries") => libraries(),
        _ => Err(anyhow::anyhow!("this is started by `playground cost`: tls-talk serve, drive or libraries")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tls-talk: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the files of the OpenSSL that this program uses.
fn libraries() -> anyhow::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let paths = maps.lines().filter_map(|line| line.find('/').and_then(|place| line.get(place..)));
    let is_openssl = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.starts_with("libssl.") || name.starts_with("libcrypto.")
    };
    for path in paths.filter(is_openssl).collect::<std::collections::BTreeSet<_>>() {
        println!("{path}");
    }
    Ok(())
}
