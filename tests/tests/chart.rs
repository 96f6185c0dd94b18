//! The Helm chart, rendered by the real helm and read as Kubernetes would read it.
//!
//! Kubernetes' own API types (generated from its OpenAPI) read each manifest and write it again: a field that
//! they do not know, or a required one that is missing, shows as a difference.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use faultline::cli::RunFlags;
use faultline::config::Config;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The chart's folder.
fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/faultline")
}

/// Where set-up puts helm when it is not on the path.
fn helm(arguments: &[&str], values: &Value) -> Output {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(values.to_string().as_bytes()).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let home = std::env::var("HOME").unwrap_or_default();
    Command::new("helm")
        .env("PATH", format!("{path}:{home}/go/bin"))
        .args(arguments)
        .arg(chart())
        .arg("--values")
        .arg(file.path())
        .output()
        .expect("helm starts: `cargo xtask test` installs it")
}

/// The manifests that `helm template` gives for these values, by kind.
fn render(values: &Value) -> BTreeMap<String, Value> {
    let output = helm(&["template", "release", "--namespace", "watch"], values);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let manifests = serde_yaml_ng::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|manifest| !manifest.is_null());
    manifests.map(|manifest| (manifest["kind"].as_str().unwrap().to_owned(), manifest)).collect()
}

/// Reads a manifest as a type of Kubernetes' API; panics where the API would not take it as it is.
fn strictly<T: DeserializeOwned + Serialize>(manifest: &Value) -> T {
    let read: T = serde_json::from_value(manifest.clone()).unwrap();
    let written = serde_json::to_value(&read).unwrap();
    assert_same(manifest, &written, "");
    read
}

/// Asserts that two values say the same; a null or an empty map says nothing.
fn assert_same(ours: &Value, theirs: &Value, path: &str) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()) {
                let place = format!("{path}.{key}");
                assert_same(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), &place);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{path}");
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| assert_same(a, b, &format!("{path}[{i}]")));
        }
        _ => assert_eq!(ours, theirs, "Kubernetes does not know or misses {path}"),
    }
}

/// Reads every manifest strictly, and gives the agent's pod and its configuration.
fn read(manifests: &BTreeMap<String, Value>) -> (k8s_openapi::api::core::v1::PodSpec, Config) {
    let mut agent = None;
    let mut config = None;
    for (kind, manifest) in manifests {
        match kind.as_str() {
            "DaemonSet" => agent = strictly::<DaemonSet>(manifest).spec.and_then(|spec| spec.template.spec),
            "ConfigMap" => config = strictly::<ConfigMap>(manifest).data,
            "Service" => drop(strictly::<Service>(manifest)),
            "ServiceAccount" => drop(strictly::<ServiceAccount>(manifest)),
            "PodMonitor" => {}
            other => panic!("the chart makes an unexpected {other}"),
        }
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(config.unwrap()["faultline.toml"].as_bytes()).unwrap();
    let flags = RunFlags { config: Some(file.path().to_owned()), ..RunFlags::default() };
    (agent.unwrap(), Config::resolve(flags).unwrap())
}

#[test]
fn helm_finds_nothing_to_say() {
    let output = helm(&["lint", "--strict"], &json!({}));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_default_pod_has_three_capabilities_and_nothing_of_the_host_but_its_cgroups() {
    let manifests = render(&json!({}));
    assert_eq!(manifests.keys().collect::<Vec<_>>(), ["ConfigMap", "DaemonSet", "Service", "ServiceAccount"]);
    let (pod, config) = read(&manifests);
    assert_eq!((pod.host_pid, pod.host_network, pod.host_ipc), (None, None, None));
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.containers.len(), 1);
    let agent = &pod.containers[0];
    let security = agent.security_context.clone().unwrap();
    let capabilities = security.capabilities.unwrap();
    assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
    assert_eq!(capabilities.add.unwrap(), ["BPF", "NET_ADMIN", "PERFMON"]);
    assert_eq!(security.privileged, Some(false));
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.read_only_root_filesystem, Some(true));
    let host: Vec<_> =
        pod.volumes.unwrap().into_iter().filter_map(|v| Some((v.name, v.host_path?.path))).collect();
    assert_eq!(host, [("cgroup".to_owned(), "/sys/fs/cgroup".to_owned())]);
    assert!(agent.volume_mounts.iter().flatten().all(|mount| mount.read_only == Some(true)));
    assert!(agent.resources.as_ref().unwrap().limits.as_ref().unwrap().contains_key("memory"));
    // The configuration that the chart writes is the agent's default, but for where it listens and looks.
    let bare = Config::resolve(RunFlags::default()).unwrap();
    assert_eq!(config.settings, bare.settings);
    assert_eq!(config.ring_size, bare.ring_size);
    assert_eq!(config.listen.to_string(), "0.0.0.0:9464");
    assert_eq!(config.cgroup_root.unwrap(), Path::new("/host/cgroup"));
}

#[test]
fn changed_values_arrive() {
    let manifests = render(&json!({
        "image": { "repository": "registry.example/faultline", "tag": "9.9" },
        "imagePullSecrets": [{ "name": "pull" }],
        "agent": { "port": 8000, "step": "10s", "ringSize": 1048576, "names": { "*/pay-*": "pay\"ments" } },
        "cgroup": { "unified": "unified" },
        "podMonitor": { "enabled": true, "labels": { "release": "prometheus" } },
        "service": { "enabled": false },
        "serviceAccount": { "create": false, "name": "other" },
        "podAnnotations": { "note": "1" },
        "podLabels": { "team": "sre" },
        "priorityClassName": "system-node-critical",
        "affinity": { "nodeAffinity": {} },
        "nodeSelector": { "pool": "apps" },
        "tolerations": []
    }));
    assert_eq!(manifests.keys().collect::<Vec<_>>(), ["ConfigMap", "DaemonSet", "PodMonitor"]);
    let (pod, config) = read(&manifests);
    assert_eq!(pod.containers[0].image.as_deref(), Some("registry.example/faultline:9.9"));
    assert_eq!(pod.containers[0].ports.as_ref().unwrap()[0].container_port, 8000);
    assert_eq!(pod.service_account_name.as_deref(), Some("other"));
    assert_eq!(pod.node_selector.unwrap()["pool"], "apps");
    assert_eq!(pod.tolerations, None);
    assert_eq!(config.listen.port(), 8000);
    assert_eq!(config.cgroup_root.as_deref(), Some(Path::new("/host/cgroup/unified")));
    assert_eq!(config.name_of("/kubepods/pay-1").as_deref(), Some("pay\"ments"));
    let monitor = &manifests["PodMonitor"];
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["honorLabels"], true);
    assert_eq!(
        monitor["spec"]["selector"]["matchLabels"],
        manifests["DaemonSet"]["spec"]["selector"]["matchLabels"]
    );
}

#[test]
fn bad_values_are_refused() {
    for (values, word) in [
        (json!({ "agent": { "port": 0 } }), "port"),
        (json!({ "agent": { "ringSize": 1000 } }), "ringSize"),
        (json!({ "agent": { "step": "0s" } }), "step"),
        (json!({ "agent": { "interval": "5s" } }), "interval"),
        (json!({ "image": { "pullPolicy": "Sometimes" } }), "pullPolicy"),
        (json!({ "hostPID": true }), "hostPID"),
        (json!({ "securityContext": { "privileged": true } }), "privileged"),
        (json!({ "podLabels": { "a": 1 } }), "podLabels"),
    ] {
        let output = helm(&["template", "release"], &values);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{values} was taken");
        assert!(text.contains(word), "{values}: {text}");
    }
}

#[test]
fn the_check_against_kubernetes_notices_a_wrong_manifest() {
    let mut manifest = render(&json!({})).remove("DaemonSet").unwrap();
    manifest["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = json!("Always");
    let caught = std::panic::catch_unwind(|| strictly::<DaemonSet>(&manifest)).unwrap_err();
    assert!(caught.downcast_ref::<String>().unwrap().contains("imagePullPolice"));
}
