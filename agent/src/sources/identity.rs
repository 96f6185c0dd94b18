//! Names from cgroup paths and processes. A path flows in, the name of the container or unit that lives there
//! flows out; [`super::cgroups`] puts it into events, and which name wins is the core's decision.

use std::sync::Arc;

/// Characters of a container id that tell it apart, as container runtimes print it.
const SHORT_ID: usize = 12;

/// The fewest hexadecimal digits of a container id (runtimes give 64; some tools shorten it to 32).
const ID_DIGITS: usize = 32;

/// The container or systemd unit to which the cgroup at `path` belongs: by its deepest component of a known
/// form, so that children of a container belong to it, else the last component. `None` for the root.
#[must_use]
pub fn container(path: &str) -> Option<Arc<str>> {
    let mut components = path.rsplit('/').filter(|component| !component.is_empty());
    let last = components.clone().next()?;
    let known = components.find_map(known_form);
    Some(known.unwrap_or_else(|| unescape(last.strip_suffix(".slice").unwrap_or(last))).into())
}

/// The uid of the Kubernetes pod to which the cgroup at `path` belongs, as the API writes it; both cgroup
/// drivers' forms: `pod<uid>`, and `kubepods-burstable-pod<uid with _>.slice`.
#[must_use]
pub fn pod_uid(path: &str) -> Option<String> {
    path.rsplit('/').find_map(|component| {
        let uid = match component.strip_suffix(".slice") {
            Some(slice) if slice.starts_with("kubepods") => slice.rsplit_once("-pod")?.1,
            _ => component.strip_prefix("pod")?,
        };
        let uid = uid.replace('_', "-");
        let is_uid = uid.len() >= ID_DIGITS && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        is_uid.then_some(uid)
    })
}

/// The name in a component that a container runtime or systemd made.
fn known_form(component: &str) -> Option<String> {
    if let Some(unit) = component.strip_suffix(".service") {
        return Some(unescape(unit));
    }
    if let Some(scope) = component.strip_suffix(".scope") {
        let id = scope.rsplit_once('-').map_or(scope, |(_, id)| id);
        // A machine's or a session's scope is not a container; its own name is what there is.
        return short_id(id).or_else(|| Some(unescape(scope)));
    }
    if let Some(name) = component.strip_prefix("lxc.payload.") {
        return Some(name.to_owned());
    }
    // `<id>` of the cgroupfs driver, and `slice:runtime:<id>` where the drivers disagree.
    short_id(component.rsplit(':').next()?)
}

fn short_id(id: &str) -> Option<String> {
    let is_id = id.len() >= ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| id.chars().take(SHORT_ID).collect())
}

/// Undoes systemd's escapes of the form `\x2d`.
fn unescape(name: &str) -> String {
    let mut parts = name.split("\\x");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (code, part.get(2..)) {
            (Some(code), Some(rest)) if code.is_ascii_graphic() => {
                out.push(char::from(code));
                out.push_str(rest);
            }
            _ => {
                out.push_str("\\x");
                out.push_str(part);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "11111111-2222-3333-4444-555555555555";

    #[test]
    fn containers_and_units() {
        let cases = [
            (format!("/system.slice/docker-{ID}.scope"), Some("0123456789ab")),
            (format!("/docker/{ID}"), Some("0123456789ab")),
            (format!("/docker/{ID}/init/child"), Some("0123456789ab")),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Some("0123456789ab")),
            (format!("/kubepods/burstable/pod{UID}/{ID}"), Some("0123456789ab")),
            (format!("/kubepods.slice/x.slice/cri-containerd-{ID}.scope"), Some("0123456789ab")),
            (format!("/kubepods.slice/x.slice/crio-{ID}.scope"), Some("0123456789ab")),
            (format!("/system.slice:cri-containerd:{ID}"), Some("0123456789ab")),
            ("/system.slice/cart.service".to_owned(), Some("cart")),
            ("/system.slice/cart.service/worker".to_owned(), Some("cart")),
            ("/system.slice/my\\x2dcart@1.service".to_owned(), Some("my-cart@1")),
            ("/user.slice/user@1000.service/app.slice/cart.service".to_owned(), Some("cart")),
            ("/user.slice/session-3.scope".to_owned(), Some("session-3")),
            ("/lxc.payload.cart".to_owned(), Some("cart")),
            ("/shop/cart".to_owned(), Some("cart")),
            ("/shop.slice".to_owned(), Some("shop")),
            ("/".to_owned(), None),
        ];
        for (path, expected) in cases {
            assert_eq!(container(&path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn pods_of_both_drivers() {
        let systemd = format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-{ID}.scope",
            UID.replace('-', "_")
        );
        assert_eq!(pod_uid(&systemd).as_deref(), Some(UID));
        assert_eq!(pod_uid(&format!("/kubepods/besteffort/pod{UID}/{ID}")).as_deref(), Some(UID));
        assert_eq!(
            pod_uid(&format!("/kubepods.slice/kubepods-pod{}.slice/x", UID.replace('-', "_"))).as_deref(),
            Some(UID)
        );
        assert_eq!(pod_uid("/system.slice/podman.service"), None);
    }
}
