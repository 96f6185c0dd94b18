//! Fake hierarchies in a temporary folder.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use expect_test::{Expect, expect};
use std::fmt::Write as _;

struct Fake {
    folder: tempfile::TempDir,
    cgroups: Cgroups,
}

impl Fake {
    fn new(hybrid: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let unified = path(if hybrid { "unified" } else { "v2" });
        std::fs::create_dir_all(&unified).unwrap();
        let v1 = |name: &str| hybrid.then(|| path(name));
        let mounts = Mounts { unified, cpu: v1("cpu"), cpuacct: v1("cpuacct"), memory: v1("memory") };
        let cgroups = Cgroups::below(mounts, path("proc"));
        Self { folder, cgroups }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// One sample's events, a line each, ids left out.
    fn sample(&mut self, second: u64, expected: &Expect) {
        let mut out = String::new();
        for event in self.cgroups.sample(Timestamp(second * 1_000_000_000)) {
            let _ = match event {
                Event::Identity(i) => writeln!(
                    out,
                    "{}{} configured {:?} container {:?} process {:?}",
                    if i.gone { "gone " } else { "" },
                    i.path,
                    i.configured,
                    i.container,
                    i.process
                ),
                Event::Cgroup(s) => writeln!(
                    out,
                    "cpu {:?} throttled {:?} pressure {:?} of {:?}, memory {:?} of {:?}, killed {:?}",
                    s.cpu_usage.map(|t| t.as_millis_f64()),
                    s.cpu_throttled.map(|t| t.as_millis_f64()),
                    s.cpu_pressure.map(|t| t.as_millis_f64()),
                    s.cpu_limit,
                    s.memory,
                    s.memory_limit,
                    s.oom_kills
                ),
                Event::Missing(m) => writeln!(out, "missing {}: {}", m.part, m.reason),
                other => writeln!(out, "{other:?}"),
            };
        }
        expected.assert_eq(&out);
    }
}

#[test]
fn version_2() {
    let mut fake = Fake::new(false);
    fake.cgroups = fake.cgroups.with_names(|path| path.ends_with("/named").then(|| "configured".into()));
    fake.write("v2/cgroup.procs", "1\n");
    fake.write("v2/cpu.stat", "usage_usec 99\n");
    fake.write("proc/42/comm", "server\n");
    fake.write("v2/system.slice/cart.service/cgroup.procs", "42\n43\n");
    fake.write(
        "v2/system.slice/cart.service/cpu.stat",
        "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\nnr_periods 9\nthrottled_usec 250000\n",
    );
    fake.write("v2/system.slice/cart.service/cpu.max", "150000 100000\n");
    fake.write(
        "v2/system.slice/cart.service/cpu.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=7000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
    );
    fake.write("v2/system.slice/cart.service/memory.current", "1000000\n");
    fake.write("v2/system.slice/cart.service/memory.max", "max\n");
    fake.write("v2/system.slice/cart.service/memory.stat", "anon 5\ninactive_file 400000\nfile 3\n");
    fake.write("v2/system.slice/cart.service/memory.events", "low 0\noom 3\noom_kill 2\n");
    fake.write("v2/named/cgroup.procs", "0\n");
    fake.write("v2/named/cpu.stat", "usage_usec 1000\n");
    fake.write("v2/empty/cgroup.procs", "");
    fake.sample(1, &expect![[r#"
        / configured None container None process None
        /named configured Some("configured") container Some("named") process None
        /system.slice/cart.service configured None container Some("cart") process Some("server")
        cpu Some(1.0) throttled None pressure None of None, memory None of None, killed None
        cpu Some(1500.0) throttled Some(250.0) pressure Some(7.0) of Some(1.5), memory Some(600000) of None, killed Some(2)
    "#]]);
    fake.write("proc/42/comm", "renamed\n");
    std::fs::remove_dir_all(fake.folder.path().join("v2/named")).unwrap();
    fake.sample(2, &expect![[r#"
        gone /named configured Some("configured") container Some("named") process None
        cpu Some(1500.0) throttled Some(250.0) pressure Some(7.0) of Some(1.5), memory Some(600000) of None, killed Some(2)
    "#]]);
    for second in 3..6 {
        fake.cgroups.sample(Timestamp(second * 1_000_000_000));
    }
    fake.sample(6, &expect![[r#"
        /system.slice/cart.service configured None container Some("cart") process Some("renamed")
        cpu Some(1500.0) throttled Some(250.0) pressure Some(7.0) of Some(1.5), memory Some(600000) of None, killed Some(2)
    "#]]);
}

#[test]
fn version_1_beside_version_2() {
    let mut fake = Fake::new(true);
    fake.write("unified/cgroup.procs", "1\n");
    fake.write("unified/shop/cart/cgroup.procs", "7\n");
    fake.write("cpuacct/shop/cart/cpuacct.usage", "2500000000\n");
    fake.write("cpu/shop/cart/cpu.stat", "nr_periods 4\nnr_throttled 2\nthrottled_time 30000000\n");
    fake.write("cpu/shop/cart/cpu.cfs_quota_us", "50000\n");
    fake.write("cpu/shop/cart/cpu.cfs_period_us", "100000\n");
    fake.write("memory/shop/cart/memory.usage_in_bytes", "9000\n");
    fake.write("memory/shop/cart/memory.limit_in_bytes", "9223372036854771712\n");
    fake.write("memory/shop/cart/memory.stat", "inactive_file 1\ntotal_inactive_file 2000\n");
    fake.write("memory/shop/cart/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
    fake.sample(1, &expect![[r#"
        / configured None container None process None
        /shop/cart configured None container Some("cart") process None
        missing pressure: the kernel has no pressure stall information
        cpu Some(2500.0) throttled Some(30.0) pressure None of Some(0.5), memory Some(7000) of None, killed Some(1)
    "#]]);
}

#[test]
fn files_that_are_missing_are_not_measured() {
    let mut fake = Fake::new(false);
    fake.write("v2/a/cgroup.procs", "7\n");
    fake.write("v2/a/cpu.stat", "not what it should be");
    fake.sample(
        1,
        &expect![[r#"
        / configured None container None process None
        /a configured None container Some("a") process None
        missing cgroup files: no cgroup has memory files
        missing pressure: the kernel has no pressure stall information
        cpu None throttled None pressure None of None, memory None of None, killed None
    "#]],
    );
}

#[test]
fn what_is_beyond_the_bounds_is_counted() {
    let mut fake = Fake::new(false);
    for i in 0..MAX_CGROUPS + 10 {
        fake.write(&format!("v2/c{i}/cgroup.procs"), "7\n");
        fake.write(&format!("v2/c{i}/cpu.stat"), "usage_usec 1\n");
    }
    let events = fake.cgroups.sample(Timestamp(1));
    let lost: Vec<u64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Lost(loss) => Some(loss.count),
            _ => None,
        })
        .collect();
    assert_eq!(lost, [11], "the root has a place too");
    let samples = events.iter().filter(|event| matches!(event, Event::Cgroup(_))).count();
    assert_eq!(samples, MAX_CGROUPS - 1);
    let open: usize = fake.cgroups.known.values().map(|known| known.files.open_count()).sum();
    assert_eq!(open, MAX_OPEN_FILES);
}
