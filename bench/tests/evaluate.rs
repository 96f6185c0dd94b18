//! A real recording, as a data set: `evaluate` replays it and says when the agent paged, whom it named, how
//! the others rank, and shows it; packed it says the same; and a second time it comes from what was kept.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use clap::Parser;
use playground::evaluate::Evaluate;
use playground::generate::pack;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// `errors` on paymentservice began in the step before 1795422094 and ended in the one before 1795422134.
const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/recordings/errors-paymentservice.rec");
const FAULTS: &str = "fault_id,episode,start,end,service,fault_type,ref_episode,ref_start,ref_end,note\n\
    f-1,e,1795422090,1795422130,paymentservice,errors,e,1795422024,1795422088,\n";
const PERIODS: &str = "episode,start,end,use,note\n\
    e,1795422024,1795422090,reference,\n\
    e,1795422070,1795422090,false_alarm_test,steady load\n";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    evaluate: Evaluate,
}

#[test]
fn a_recorded_fault_is_paged_and_ranked() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("shop");
    fs::create_dir_all(dir.join("episodes/e")).unwrap();
    fs::write(dir.join("meta.json"), r#"{"step_s": 5, "entry": "frontend"}"#).unwrap();
    fs::write(dir.join("graph.csv"), "caller,callee,calls,kind\nfrontend,checkoutservice,1,call\n").unwrap();
    fs::write(dir.join("faults.csv"), FAULTS).unwrap();
    fs::write(dir.join("normal_periods.csv"), PERIODS).unwrap();
    let plain = dir.join("episodes/e/agent.rec");
    fs::copy(RECORDING, &plain).unwrap();
    let found = evaluate(&dir, folder.path());
    check(&found);

    pack(&plain, &dir.join("episodes/e/agent.rec.xz")).unwrap();
    let packed = fs::metadata(dir.join("episodes/e/agent.rec.xz")).unwrap().len();
    assert!(packed * 2 < fs::metadata(&plain).unwrap().len(), "{packed} bytes");
    fs::remove_file(&plain).unwrap();
    check(&evaluate(&dir, folder.path()));

    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("prefers-color-scheme"), "a page with plots");
    assert!(!page.contains("http://") && !page.contains("https://"), "nothing comes from elsewhere");
    let rankings = fs::read_to_string(folder.path().join("rankings.jsonl")).unwrap();
    assert!(rankings.starts_with(r#"{"fault_id":"f-1","ranking":["paymentservice","#), "{rankings}");
}

fn evaluate(dir: &Path, to: &Path) -> Value {
    let (out, json, page) = (to.join("rankings.jsonl"), to.join("found.json"), to.join("page.html"));
    let mut line: Vec<&std::ffi::OsStr> = vec!["evaluate".as_ref(), dir.as_ref(), "--no-model".as_ref()];
    line.push("--fresh".as_ref());
    for (flag, file) in [("--out", &out), ("--json", &json), ("--report", &page)] {
        line.extend([flag.as_ref(), file.as_os_str()]);
    }
    Line::try_parse_from(line).unwrap().evaluate.run().unwrap();
    serde_json::from_slice(&fs::read(json).unwrap()).unwrap()
}

fn check(found: &Value) {
    let fault = found.pointer("/faults/0").unwrap();
    let live = fault.pointer("/live/faultline, no model").unwrap();
    let seconds = live.pointer("/seconds_to_page").unwrap().as_f64().unwrap();
    assert!((20.0..30.0).contains(&seconds), "paged after {seconds} s");
    assert_eq!(live.pointer("/right"), Some(&Value::Bool(true)));
    assert_eq!(fault.pointer("/hits/faultline/within/0"), Some(&Value::from(1.0)));
    let random = fault.pointer("/hits/random/within/0").unwrap().as_f64().unwrap();
    assert!((0.05..0.1).contains(&random), "one of 14 services, drawn: {random}");
    let false_pages = found.pointer("/summary/false_pages").unwrap().as_array().unwrap();
    assert!(false_pages.iter().all(|row| row.get("pages") == Some(&Value::from(0))), "{false_pages:?}");
}
