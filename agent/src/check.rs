//! What this machine allows flows in, findings and an exit status flow out: 0 only if `run` would work.

use crate::config::Config;
use crate::run::inference;
use crate::sources::elsewhere;
use crate::sources::probes::{Finding, probe_support};
use faultline_core::units::Timestamp;
use serde_json::json;
use std::io::IsTerminal;
use std::process::ExitCode;

/// Looks at everything that `run` needs and prints what it finds.
///
/// # Errors
/// Never; the findings are the answer.
pub fn run(config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let mut findings = probe_support(config.cgroup_root.as_deref(), config.tls.is_some());
    findings.push(port(config));
    findings.push(model(config));
    findings.extend(elsewhere::look().map(way));
    let works = findings.iter().all(|finding| finding.ok || !finding.required);
    if as_json {
        print_json(&findings, works);
    } else {
        print_text(&findings, works);
    }
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn port(config: &Config) -> Finding {
    let listen = config.listen;
    let (ok, detail, fix) = match std::net::TcpListener::bind(listen) {
        Ok(_) => (true, format!("{listen} is free"), String::new()),
        Err(error) => (
            false,
            format!("cannot listen on {listen}: {error}"),
            "if an agent runs already, this is it; else choose another with --listen".to_owned(),
        ),
    };
    Finding { part: "port", ok, required: true, detail, fix }
}

fn model(config: &Config) -> Finding {
    let (ok, detail, fix) = match inference::model(&config.model, Timestamp::default()) {
        Ok(model) => (true, format!("SHA-256 {}", model.digest()), String::new()),
        Err(missing) => (false, missing.reason.to_string(), missing.fix.to_string()),
    };
    Finding { part: "model", ok, required: false, detail, fix }
}

/// What passes where the agent cannot see it.
fn way(way: elsewhere::Way) -> Finding {
    let ok = way.used.is_none();
    let fix = if ok { String::new() } else { way.fix.to_owned() };
    let detail = way.used.unwrap_or_else(|| "nothing seen of it".to_owned());
    Finding { part: way.part, ok, required: false, detail, fix }
}

fn print_json(findings: &[Finding], works: bool) {
    let findings: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "part": finding.part,
                "ok": finding.ok,
                "required": finding.required,
                "detail": finding.detail,
                "fix": finding.fix,
            })
        })
        .collect();
    println!("{}", json!({ "works": works, "findings": findings }));
}

fn print_text(findings: &[Finding], works: bool) {
    let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for finding in findings {
        let (word, colour) = match (finding.ok, finding.required) {
            (true, _) => ("ok", "\x1b[32m"),
            (false, true) => ("MISSING", "\x1b[1;31m"),
            (false, false) => ("without", "\x1b[33m"),
        };
        let (on, off) = if coloured { (colour, "\x1b[0m") } else { ("", "") };
        println!("{on}{word:<8}{off} {:<16} {}", finding.part, finding.detail);
        if !finding.fix.is_empty() {
            println!("{:26}to do: {}", "", finding.fix);
        }
    }
    println!("{}", if works { "`faultline run` works here." } else { "`faultline run` does not work here." });
}
