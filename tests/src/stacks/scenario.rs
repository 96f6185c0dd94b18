//! What the peers do: the calls of one pair, as the lines that `tests/stacks/README.md` describes.

use std::fmt::Write as _;

/// How sure one can be of a call's messages and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Both ends say the same, and the wire must too.
    Exact,
    /// Exact, but how many bytes gzip made of it only some stacks tell.
    Compressed,
    /// Exact, but the server was not told which call it is: its truth cannot be asked.
    Anonymous,
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
    /// `Unary`, `ClientStream`, `ServerStream`, `Bidi`, `Retried` or `Missing`.
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

impl Planned {
    /// A field of the line; 0 where it is not there.
    #[must_use]
    pub fn number(&self, key: &str) -> u64 {
        let field = self.line.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
        field.and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

/// How many calls are made at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// Calls that wait in the server.
    pub waiting: usize,
    /// Calls that are answered at once.
    pub at_once: usize,
    /// Calls with messages of many frames: their frames mix.
    pub mixed: usize,
}

/// As many streams on a connection as real clients have.
pub const STREAMS: Crowd = Crowd { waiting: 1_000, at_once: 400, mixed: 40 };

/// As many connections as a listener takes in one go: nginx opens one for each call.
pub const CONNECTIONS: Crowd = Crowd { waiting: 50, at_once: 50, mixed: 20 };

/// Rounds of calls while connections age: with their pauses, some seconds.
const AGEING_ROUNDS: usize = 60;

/// Rounds of calls before and after the agent joins a running connection.
const LATE_ROUNDS: [usize; 2] = [20, 80];

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
pub fn scenario(crowd: Crowd) -> Vec<Planned> {
    let mut all = Scenario { calls: Vec::new(), group: 0 };
    kinds_and_sizes(&mut all);
    endings(&mut all);
    headers(&mut all);
    crowds(&mut all, crowd);
    all.calls
}

/// The calls of which both ends can be sure to the byte.
#[must_use]
pub fn exact(crowd: Crowd) -> Vec<Planned> {
    scenario(crowd).into_iter().filter(|planned| planned.certainty == Certainty::Exact).collect()
}

fn kinds_and_sizes(all: &mut Scenario) {
    use Certainty::{Compressed, Exact};
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
    all.call(Compressed, "Unary", "10000", "10001", "gzip=1");
    all.call(Compressed, "ClientStream", "5x3000,2x10", "10002", "gzip=1");
    all.call(Compressed, "ServerStream", "10003", "5x3001,2x10", "gzip=1");
    all.call(Compressed, "Bidi", "5x3002", "5x3003", "gzip=1");
}

fn endings(all: &mut Scenario) {
    use Certainty::{Cancelled, Early, Exact, Expired};
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
    for (size, retries) in [("66", 1), ("67", 2), ("68", 3)] {
        all.call(Exact, "Retried", size, "69", &format!("retry={retries}"));
    }
    // Long enough for keep-alive pings.
    all.call(Exact, "Unary", "99", "101", "delay=1100");
    all.call(Exact, "Unary", "70", "71", "deadline=20000 delay=20");
    // Deadlines and cancellations.
    all.call(Expired, "Unary", "72", "73", "deadline=120 delay=900");
    all.beside(Expired, "ServerStream", "74", "40x75", "deadline=150 gap=40");
    all.beside(Cancelled, "Unary", "80", "81", "cancel=60 delay=900");
    all.beside(Cancelled, "ServerStream", "82", "40x83", "cancel=150 gap=40");
    all.beside(Cancelled, "ClientStream", "40x84", "85", "cancel=150 cgap=40");
    all.beside(Cancelled, "Bidi", "40x86", "40x87", "cancel=150 cgap=40");
    // What the server cancels; a stack without a way of its own ends with the status.
    all.call(Cancelled, "Unary", "88", "-", "status=1 scancel=1");
    all.call(Cancelled, "Bidi", "2x89", "2x89", "status=1 scancel=1");
}

/// Metadata that needs CONTINUATION frames, and calls behind it: its table entries push others out.
fn headers(all: &mut Scenario) {
    use Certainty::Exact;
    all.call(Exact, "Unary", "90", "91", "meta=6x4000");
    all.call(Exact, "Unary", "92", "93", "meta=20000");
    all.call(Exact, "Unary", "94", "95", "rmeta=6x4000");
    all.call(Exact, "Unary", "96", "-", "tmeta=6x4000 status=3");
    all.call(Exact, "Unary", "97", "98", "");
}

fn crowds(all: &mut Scenario, crowd: Crowd) {
    use Certainty::Exact;
    all.group += 1;
    for i in 0..crowd.waiting {
        all.beside(Exact, "Unary", &(1_000 + i).to_string(), &(2_000 + i).to_string(), "delay=1000");
    }
    all.group += 1;
    for i in 0..crowd.at_once {
        let (method, req, res) = match i % 4 {
            0 => ("Unary", "", ""),
            1 => ("ClientStream", "3x", ""),
            2 => ("ServerStream", "", "4x"),
            _ => ("Bidi", "2x", "3x"),
        };
        all.beside(Exact, method, &format!("{req}{}", 500 + i), &format!("{res}{}", 600 + i), "");
    }
    all.group += 1;
    for i in 0..crowd.mixed {
        all.beside(Exact, "Bidi", &format!("3x{}", 40_000 + i), &format!("3x{}", 50_000 + i), "");
    }
    all.call(Exact, "Unary", "102", "103", "");
}

/// Calls that last longer than their connection is young: a few at a time, each a little in the server.
///
/// # Panics
/// When a size is not a number.
#[must_use]
pub fn ageing() -> Vec<Planned> {
    use Certainty::Exact;
    let mut all = Scenario { calls: Vec::new(), group: 0 };
    for round in 0..AGEING_ROUNDS {
        let size = |more: usize| (100 + round * 4 + more).to_string();
        all.call(Exact, "Unary", &size(0), "10", "delay=60");
        all.beside(Exact, "Bidi", &format!("2x{}", size(1)), "2x11", "delay=60");
        all.beside(Exact, "ServerStream", &size(2), "3x12", "gap=30");
    }
    all.calls
}

/// The calls of a connection that the agent joins: some before it comes, as many again and more behind it, one
/// after the other. No two shapes have the same sizes, so each call tells what it is.
#[derive(Debug)]
pub struct Late {
    /// Every call's line.
    pub lines: Vec<String>,
    /// Those that are made once the agent is there.
    pub seen: Vec<Planned>,
}

/// Kind, requests, responses and the rest: 1 is a success, and the statuses come with and without messages.
const LATE_SHAPES: [(&str, &str, &str, &str); 9] = [
    ("Unary", "100", "200", ""),
    ("Unary", "30", "-", " status=5"),
    ("Unary", "31", "-", " status=14"),
    ("ClientStream", "3x40", "41", ""),
    ("ServerStream", "42", "3x43", ""),
    ("Bidi", "2x44", "2x45", ""),
    ("Bidi", "2x46", "2x47", " status=9"),
    ("ServerStream", "48", "49", " status=13"),
    ("Unary", "0", "1", ""),
];

/// The calls of a late join. `varied`: each with a deadline and a trace id, else every header is constant.
///
/// # Panics
/// When a size is not a number.
#[must_use]
pub fn late(varied: bool) -> Late {
    let mut late = Late { lines: Vec::new(), seen: Vec::new() };
    let [before, behind] = LATE_ROUNDS;
    for round in 0..before + behind {
        for (method, req, res, more) in LATE_SHAPES {
            let id = u32::try_from(late.lines.len()).unwrap() + 1;
            let mut line = format!("id={id} group={id}");
            if varied {
                write!(line, " deadline=20000 trace=00-{id:032x}-{id:016x}-01").unwrap();
            }
            if round == before && late.seen.is_empty() {
                line += " await=1";
            }
            write!(line, " anon=1 method={method} req={req} res={res}{more}").unwrap();
            late.lines.push(line.clone());
            if round >= before {
                let certainty = Certainty::Anonymous;
                let (requests, responses) = (total(req), total(res));
                late.seen.push(Planned { id, method, certainty, requests, responses, line });
            }
        }
    }
    late
}
