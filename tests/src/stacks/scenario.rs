//! What the peers do: the calls of one pair, as the lines that `tests/stacks/README.md` describes.

use std::fmt::Write as _;

/// How sure one can be of a call's messages and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Both ends say the same, and the wire must too.
    Exact,
    /// Exact, but how many bytes gzip made of it only some stacks tell.
    Compressed,
    /// The server ends before it has read everything: the requests are an upper bound.
    Early,
    /// The client cancels on its way: messages are upper bounds.
    Cancelled,
    /// The deadline passes on its way: messages are upper bounds, and each end has its own view of the status.
    Expired,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its number.
    pub id: u32,
    /// `Unary`, `ClientStream`, `ServerStream`, `Bidi` or `Missing`.
    pub method: &'static str,
    /// What can be expected.
    pub certainty: Certainty,
    /// The most request messages and bytes (before compression).
    pub requests: (u32, u64),
    /// The most response messages and bytes (before compression).
    pub responses: (u32, u64),
    /// The line for the peers.
    pub line: String,
}

/// Calls that wait in the server at the same time.
const WAITING: usize = 300;

/// Calls that are made at the same time and answered at once.
const AT_ONCE: usize = 400;

/// Calls with messages of many frames at the same time: their frames mix.
const MIXED: usize = 40;

struct Scenario {
    calls: Vec<Planned>,
    group: u32,
}

impl Scenario {
    /// A call beside the others of its group.
    fn beside(&mut self, certainty: Certainty, method: &'static str, req: &str, res: &str, more: &str) {
        let id = u32::try_from(self.calls.len()).unwrap() + 1;
        let mut line = format!("id={id} group={} method={method} req={req} res={res}", self.group);
        if !more.is_empty() {
            write!(line, " {more}").unwrap();
        }
        let (requests, responses) = (total(req), total(res));
        self.calls.push(Planned { id, method, certainty, requests, responses, line });
    }

    /// A call alone.
    fn call(&mut self, certainty: Certainty, method: &'static str, req: &str, res: &str, more: &str) {
        self.group += 1;
        self.beside(certainty, method, req, res, more);
    }
}

/// Messages and bytes of a list of sizes such as `3x100,0,1`.
fn total(sizes: &str) -> (u32, u64) {
    sizes.split(',').filter(|part| *part != "-").fold((0, 0), |(messages, bytes), part| {
        let (count, size) = part.split_once('x').unwrap_or(("1", part));
        let (count, size): (u32, u64) = (count.parse().unwrap(), size.parse().unwrap());
        (messages + count, bytes + u64::from(count) * size)
    })
}

/// The whole scenario of a pair.
///
/// # Panics
/// When a size is not a number.
#[must_use]
pub fn scenario() -> Vec<Planned> {
    use Certainty::{Cancelled, Compressed, Early, Exact, Expired};
    let mut all = Scenario { calls: Vec::new(), group: 0 };
    // Kinds and sizes.
    for (req, res) in [("100", "200"), ("0", "0"), ("1", "1"), ("0", "5"), ("100000", "100001")] {
        all.call(Exact, "Unary", req, res, "");
    }
    all.call(Exact, "Unary", "16000000", "3", "");
    all.call(Exact, "Unary", "3", "16000000", "");
    all.call(Exact, "ClientStream", "3x100,0,1,100000", "9", "");
    all.call(Exact, "ClientStream", "-", "11", "");
    all.call(Exact, "ClientStream", "200x5000", "12", "");
    all.call(Exact, "ServerStream", "7", "100,0,1,100000,5x20", "");
    all.call(Exact, "ServerStream", "8", "-", "");
    all.call(Exact, "ServerStream", "9", "200x5000", "");
    all.call(Exact, "Bidi", "5x10,3x1000", "5x11,4x999", "");
    all.call(Exact, "Bidi", "-", "3x13", "");
    all.call(Exact, "Bidi", "100x10000", "100x10001", "");
    all.call(Exact, "Bidi", "5x14", "5x15", "cgap=20");
    // Statuses: with headers alone, and after messages.
    for status in 0..=16 {
        let size = (30 + status).to_string();
        let res = if status == 0 { "30" } else { "-" };
        all.call(Exact, "Unary", &size, res, &format!("status={status}"));
        all.call(Exact, "Bidi", &format!("2x{size}"), &format!("2x{size}"), &format!("status={status}"));
    }
    all.call(Exact, "ServerStream", "60", "3x61", "status=9 rmeta=10,20 tmeta=30");
    all.call(Exact, "ClientStream", "4x62", "-", "status=10 tmeta=30");
    all.call(Early, "Bidi", "63", "-", "status=7 early=1");
    all.call(Early, "ClientStream", "20x64", "-", "status=8 early=1");
    all.call(Early, "Missing", "65", "-", "");
    // Deadlines and cancellations.
    all.call(Exact, "Unary", "70", "71", "deadline=20000 delay=20");
    all.call(Expired, "Unary", "72", "73", "deadline=120 delay=900");
    all.call(Expired, "ServerStream", "74", "40x75", "deadline=150 gap=40");
    all.call(Cancelled, "Unary", "80", "81", "cancel=60 delay=900");
    all.call(Cancelled, "ServerStream", "82", "40x83", "cancel=150 gap=40");
    all.call(Cancelled, "ClientStream", "40x84", "85", "cancel=150 cgap=40");
    all.call(Cancelled, "Bidi", "40x86", "40x87", "cancel=150 cgap=40");
    // Compression.
    all.call(Compressed, "Unary", "10000", "10001", "gzip=1");
    all.call(Compressed, "ClientStream", "5x3000,2x10", "10002", "gzip=1");
    all.call(Compressed, "ServerStream", "10003", "5x3001,2x10", "gzip=1");
    all.call(Compressed, "Bidi", "5x3002", "5x3003", "gzip=1");
    // Metadata that needs CONTINUATION frames.
    all.call(Exact, "Unary", "90", "91", "meta=6x4000");
    all.call(Exact, "Unary", "92", "93", "meta=20000");
    all.call(Exact, "Unary", "94", "95", "rmeta=6x4000");
    all.call(Exact, "Unary", "96", "-", "tmeta=6x4000 status=3");
    all.call(Exact, "Unary", "97", "98", "");
    // Long enough for keep-alive pings.
    all.call(Exact, "Unary", "99", "101", "delay=1100");
    all.group += 1;
    for i in 0..WAITING {
        all.beside(Exact, "Unary", &(1_000 + i).to_string(), &(2_000 + i).to_string(), "delay=150");
    }
    all.group += 1;
    for i in 0..AT_ONCE {
        let (method, req, res) = match i % 4 {
            0 => ("Unary", "", ""),
            1 => ("ClientStream", "3x", ""),
            2 => ("ServerStream", "", "4x"),
            _ => ("Bidi", "2x", "3x"),
        };
        all.beside(Exact, method, &format!("{req}{}", 500 + i), &format!("{res}{}", 600 + i), "");
    }
    all.group += 1;
    for i in 0..MIXED {
        all.beside(Exact, "Bidi", &format!("3x{}", 40_000 + i), &format!("3x{}", 50_000 + i), "");
    }
    all.call(Exact, "Unary", "102", "103", "");
    all.calls
}
