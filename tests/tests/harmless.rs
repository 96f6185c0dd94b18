//! The shipped kernel object can do no harm: every packet passes, and no helper is used that changes a
//! packet, a socket's traffic or another process's memory. Read from the instructions themselves.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use object::{Object, ObjectSection};
use std::collections::BTreeMap;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../agent-ebpf/built/faultline-probes.o");

/// The helpers that the programs may call: they read, keep time, or write to the programs' own maps.
const HARMLESS: [(i32, &str); 20] = [
    (1, "map_lookup_elem"),
    (2, "map_update_elem"),
    (3, "map_delete_elem"),
    (5, "ktime_get_ns"),
    (14, "get_current_pid_tgid"),
    (26, "skb_load_bytes"),
    (46, "get_socket_cookie"),
    (59, "sock_ops_cb_flags_set"),
    (79, "skb_cgroup_id"),
    (95, "sk_fullsock"),
    (96, "tcp_sock"),
    (107, "sk_storage_get"),
    (112, "probe_read_user"),
    (118, "jiffies64"),
    (130, "ringbuf_output"),
    (131, "ringbuf_reserve"),
    (132, "ringbuf_submit"),
    (133, "ringbuf_discard"),
    (174, "get_attach_cookie"),
    (181, "loop"),
];

/// One instruction.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LOAD_WIDE: u8 = 0x18;

fn sections() -> BTreeMap<String, Vec<Instruction>> {
    let file = object::File::parse(OBJECT).unwrap();
    file.sections()
        .filter(|section| section.kind() == object::SectionKind::Text)
        .map(|section| {
            let instructions = section
                .data()
                .unwrap()
                .chunks_exact(8)
                .map(|bytes| Instruction {
                    code: bytes[0],
                    destination: bytes[1] & 15,
                    source: bytes[1] >> 4,
                    offset: i16::from_le_bytes([bytes[2], bytes[3]]),
                    immediate: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
                })
                .collect();
            (section.name().unwrap().to_owned(), instructions)
        })
        .collect()
}

#[test]
fn only_harmless_helpers_are_called() {
    let mut called = BTreeMap::new();
    for (section, instructions) in sections() {
        let mut skip = false;
        for instruction in instructions {
            // The second half of a wide load is no instruction.
            if skip {
                skip = false;
                continue;
            }
            skip = instruction.code == LOAD_WIDE;
            // Source 0 is a helper, 1 one of our own functions; 2 would be a kernel function.
            if instruction.code == CALL {
                assert_ne!(instruction.source, 2, "{section} calls a kernel function: {instruction:?}");
                if instruction.source == 0 {
                    let helper = HARMLESS.iter().find(|(number, _)| *number == instruction.immediate);
                    let (number, name) =
                        helper.unwrap_or_else(|| panic!("{section} calls helper {}", instruction.immediate));
                    called.insert(*number, *name);
                }
            }
        }
    }
    println!("{called:?}");
    assert!(called.contains_key(&130), "the programs do not even write records");
}

#[test]
fn programs_can_only_return_1() {
    let programs: Vec<_> =
        sections().into_iter().filter(|(name, code)| name != ".text" && !code.is_empty()).collect();
    let names: Vec<_> = programs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["cgroup_skb/egress", "cgroup_skb/ingress", "sockops", "uprobe", "uretprobe"]);
    // What a uprobe returns, the kernel does not look at.
    for (name, code) in programs.into_iter().filter(|(name, _)| !name.starts_with('u')) {
        let exits: Vec<_> = (0..code.len()).filter(|at| code[*at].code == EXIT).collect();
        assert!(!exits.is_empty());
        for exit in exits {
            let before = code[exit - 1];
            // `r0 = 1` or `w0 = 1`.
            let sets_one = (before.code == 0xb7 || before.code == 0xb4)
                && before.destination == 0
                && before.immediate == 1;
            assert!(sets_one, "{name} may return something else at {exit}: {before:?}");
            for (at, jump) in code.iter().enumerate() {
                let class = jump.code & 7;
                let is_jump = (class == 5 || class == 6) && jump.code != CALL && jump.code != EXIT;
                let target = i64::try_from(at).unwrap() + 1 + i64::from(jump.offset);
                assert!(
                    !is_jump || target != i64::try_from(exit).unwrap(),
                    "{name} jumps over the verdict at {at}"
                );
            }
        }
    }
}
