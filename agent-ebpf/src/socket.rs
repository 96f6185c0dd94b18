//! What happens to sockets: connects, accepts, closes, failed connects. Callbacks of the kernel come in,
//! records leave through the ring.

use crate::early;
use crate::maps::{RECORDS, count_loss, wakeup};
use crate::observe::{begins, connection_of, told};
use crate::sample::sample;
use crate::state::{Connection, phase};
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set};
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::debug;
use faultline_abi::{
    ClosedRecord, ConnectFailedRecord, Head, OpenedRecord, family as families, kind, loss, role,
};

/// States of the socket API.
const SYN_SENT: u32 = 2;
const CLOSE: u32 = 7;

/// Something happened to a socket.
#[inline(always)]
pub fn changed(ctx: &SockOpsContext) {
    let ops = ctx.ops;
    let op = ctx.op();
    if op != BPF_SOCK_OPS_TCP_CONNECT_CB
        && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
        && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
        && op != BPF_SOCK_OPS_STATE_CB
    {
        return;
    }
    // SAFETY: the context is valid; the socket is checked before use.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let Some(connection) = connection_of(sk) else {
            count_loss(loss::CONNECTION_TABLE_FULL);
            return;
        };
        let c = &mut *connection;
        let now = bpf_ktime_get_ns();
        if op == BPF_SOCK_OPS_STATE_CB {
            state_changed(ops, c, now);
            return;
        }
        // Gone at load time unless the agent asks for the programs' own log.
        debug!(ctx, "socket operation {} from port {}", op, ctx.local_port());
        bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG as i32);
        if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
            c.connecting_at = now;
        } else if op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
            c.role = role::CLIENT;
            if c.connecting_at != 0 {
                c.connect_nanos = now.wrapping_sub(c.connecting_at);
            }
            established(ops, c);
        } else {
            c.role = role::SERVER;
            established(ops, c);
            begun(ops, c, now);
        }
    }
}

/// Keeps where both directions begin: packets may come in another order.
///
/// # Safety
/// The context must be valid.
#[inline(always)]
unsafe fn established(ops: *mut bpf_sock_ops, c: &mut Connection) {
    // SAFETY: the caller vouches for the context.
    let (sent, received) =
        unsafe { ((&raw const (*ops).snd_nxt).read_volatile(), (&raw const (*ops).rcv_nxt).read_volatile()) };
    c.fresh = 1;
    // What went out with the handshake is its beginning already.
    if c.sent.phase == phase::NEW {
        begins(&mut c.sent, sent);
    }
    begins(&mut c.received, received);
}

/// Tells of a connection whose first bytes came before it, and takes them up.
///
/// # Safety
/// The context must be valid.
#[inline(always)]
unsafe fn begun(ops: *mut bpf_sock_ops, c: &mut Connection, now: u64) {
    let Some(cgroup) = early::cgroup_of(c.received.first) else { return };
    // SAFETY: the caller vouches for the context. Each field is read once, before any branch.
    unsafe {
        c.cgroup = cgroup;
        c.cookie = bpf_get_socket_cookie(ops.cast());
        c.opened = 1;
        c.sampled_at = now;
        let family = (&raw const (*ops).family).read_volatile();
        let v4 =
            ((&raw const (*ops).local_ip4).read_volatile(), (&raw const (*ops).remote_ip4).read_volatile());
        let local6 = [
            (&raw const (*ops).local_ip6[0]).read_volatile(),
            (&raw const (*ops).local_ip6[1]).read_volatile(),
            (&raw const (*ops).local_ip6[2]).read_volatile(),
            (&raw const (*ops).local_ip6[3]).read_volatile(),
        ];
        let local_port = (&raw const (*ops).local_port).read_volatile() as u16;
        let remote_port = (&raw const (*ops).remote_port).read_volatile();
        opened(c, now, family, v4, (local6, remote6(ops)), (local_port, host_order(remote_port)));
    }
    early::take_up(c, now);
}

/// # Safety
/// The context must be valid.
#[inline(always)]
unsafe fn remote6(ops: *mut bpf_sock_ops) -> [u32; 4] {
    // SAFETY: the caller vouches for the context. Each field is read once, before any branch.
    unsafe {
        [
            (&raw const (*ops).remote_ip6[0]).read_volatile(),
            (&raw const (*ops).remote_ip6[1]).read_volatile(),
            (&raw const (*ops).remote_ip6[2]).read_volatile(),
            (&raw const (*ops).remote_ip6[3]).read_volatile(),
        ]
    }
}

/// A remote port: the context has it in network order in the upper half.
#[inline(always)]
fn host_order(port: u32) -> u16 {
    (port.swap_bytes() & 0xffff) as u16
}

/// # Safety
/// The context must be valid.
#[inline(always)]
unsafe fn state_changed(ops: *mut bpf_sock_ops, c: &mut Connection, now: u64) {
    // SAFETY: the caller vouches for the context; these callbacks have two arguments.
    unsafe {
        let from = (&raw const (*ops).__bindgen_anon_1.args[0]).read_volatile();
        let to = (&raw const (*ops).__bindgen_anon_1.args[1]).read_volatile();
        if to != CLOSE {
            return;
        }
        if from == SYN_SENT {
            connect_failed(ops, c, now);
            if c.opened != 0 {
                closed(c, now);
            }
        } else if c.opened != 0 && c.closed == 0 {
            let ops = &*ops;
            told(c);
            sample(c, now, ops.srtt_us, ops.total_retrans, ops.segs_out, ops.bytes_acked, ops.bytes_received);
            closed(c, now);
        }
    }
}

/// # Safety
/// The context must be valid.
#[inline(always)]
unsafe fn connect_failed(ops: *mut bpf_sock_ops, c: &mut Connection, now: u64) {
    // SAFETY: the caller vouches for the context. Each field is read once, before any branch.
    let (family, v4, v6, port) = unsafe {
        (
            (&raw const (*ops).family).read_volatile(),
            (&raw const (*ops).remote_ip4).read_volatile(),
            remote6(ops),
            (&raw const (*ops).remote_port).read_volatile(),
        )
    };
    let Some(mut entry) = RECORDS.reserve::<ConnectFailedRecord>(0) else {
        count_loss(loss::RING_FULL);
        return;
    };
    entry.write(ConnectFailedRecord {
        head: Head {
            kind: kind::CONNECT_FAILED,
            size: size_of::<ConnectFailedRecord>() as u32,
            at: now,
            cookie: c.cookie,
        },
        cgroup: c.cgroup,
        remote: address(family, v4, v6),
        family,
        remote_port: host_order(port),
        reserved: 0,
    });
    entry.submit(wakeup(now));
}

/// Tells of a connection.
#[inline(always)]
pub fn opened(
    c: &mut Connection,
    now: u64,
    family: u32,
    v4: (u32, u32),
    v6: ([u32; 4], [u32; 4]),
    ports: (u16, u16),
) {
    let Some(mut entry) = RECORDS.reserve::<OpenedRecord>(0) else {
        count_loss(loss::RING_FULL);
        return;
    };
    entry.write(OpenedRecord {
        head: Head { kind: kind::OPENED, size: size_of::<OpenedRecord>() as u32, at: now, cookie: c.cookie },
        cgroup: c.cgroup,
        connect_nanos: c.connect_nanos,
        role: c.role,
        family,
        local: address(family, v4.0, v6.0),
        remote: address(family, v4.1, v6.1),
        local_port: ports.0,
        remote_port: ports.1,
        reserved: 0,
    });
    entry.submit(wakeup(now));
}

/// Tells of a connection's end.
#[inline(always)]
pub fn closed(c: &mut Connection, now: u64) {
    c.closed = 1;
    let Some(mut entry) = RECORDS.reserve::<ClosedRecord>(0) else {
        count_loss(loss::RING_FULL);
        return;
    };
    entry.write(ClosedRecord {
        head: Head { kind: kind::CLOSED, size: size_of::<ClosedRecord>() as u32, at: now, cookie: c.cookie },
    });
    entry.submit(wakeup(now));
}

#[inline(always)]
fn address(family: u32, v4: u32, v6: [u32; 4]) -> [u8; 16] {
    let words = if family == families::V4 { [v4, 0, 0, 0] } else { v6 };
    let mut bytes = [0; 16];
    for (place, word) in words.iter().enumerate() {
        bytes[place * 4..place * 4 + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}
