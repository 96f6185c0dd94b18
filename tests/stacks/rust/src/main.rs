//! The tonic peer; see ../README.md. This file reads the command line; `server` and `client` are its two ends.

mod client;
mod plan;
mod raw;
mod server;
mod truth;

use plan::Plan;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use truth::Ledger;

#[tokio::main]
async fn main() {
    let mut words = std::env::args().skip(1);
    let end = words.next().expect("server or client");
    let mut flags = HashMap::new();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        flags.insert(name.trim_start_matches("--").to_owned(), value);
    }
    let flag = |name: &str| flags.get(name).unwrap_or_else(|| panic!("--{name} is missing")).as_str();
    let ledger = Ledger::create(flag("truth"));
    if end == "server" {
        let listen: IpAddr = flag("listen").parse().expect("an address");
        let age = Duration::from_millis(flag("age").parse().expect("milliseconds"));
        let port = flag("port").parse().expect("a port");
        server::serve(SocketAddr::new(listen, port), age, ledger).await;
    } else {
        let scenario = std::fs::read_to_string(flag("scenario")).expect("a scenario");
        let plans = scenario.lines().map(Plan::parse).collect();
        client::run(flag("target"), flag("authority"), plans, ledger).await;
    }
}
