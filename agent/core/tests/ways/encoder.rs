//! Header blocks as the big stacks write them: fields flow in, blocks flow out. What is in the table is written as
//! an index, what is not is put into it, but for what a stack never puts there.

use std::collections::VecDeque;

/// Whose way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `:method :scheme :path :authority`, everything in the table.
    Go,
    /// `:authority :path :method :scheme`, everything in the table.
    Netty,
    /// gRPC C++ and all above it: `:path :authority :method :scheme`, everything in the table.
    Core,
    /// h2, nghttp2 and most others: the path is never in the table.
    Literal,
}

/// Static entries in use: name, value, index.
const STATICS: [(&str, &str, u8); 3] =
    [(":method", "POST", 3), (":scheme", "http", 6), (":status", "200", 8)];

/// Static names in use: the first index of each.
const STATIC_NAMES: [(&str, u8); 5] =
    [(":authority", 1), (":path", 4), (":status", 8), ("content-type", 31), ("user-agent", 58)];

/// Bytes of an entry beyond its name and value (RFC 7541 section 4.1).
const OVERHEAD: usize = 32;

/// One end's encoder.
#[derive(Debug)]
pub(crate) struct Encoder {
    way: Way,
    /// Newest first.
    table: VecDeque<(String, String)>,
    size: usize,
    limit: usize,
    /// The table's size is to be told with the next block.
    untold: bool,
    calls: u32,
}

impl Encoder {
    pub(crate) fn new(way: Way, limit: usize) -> Self {
        Self { way, table: VecDeque::new(), size: 0, limit, untold: limit != 4096, calls: 0 }
    }

    pub(crate) fn request(&mut self, method: &str, timeout_ms: Option<u32>) -> Vec<u8> {
        let path = format!("/{method}");
        let mut block = self.begin();
        let path = (":path", path.as_str());
        let authority = (":authority", "cart.shop:8080");
        let (post, http) = ((":method", "POST"), (":scheme", "http"));
        let order = match self.way {
            Way::Go => [post, http, path, authority],
            Way::Netty => [authority, path, post, http],
            Way::Core => [path, authority, post, http],
            Way::Literal => [post, http, authority, path],
        };
        for (name, value) in order {
            self.field(name, value, &mut block);
        }
        self.field("content-type", "application/grpc", &mut block);
        self.field("user-agent", "a-client/1.2.3", &mut block);
        self.field("te", "trailers", &mut block);
        if let Some(timeout) = timeout_ms {
            self.field("grpc-timeout", &format!("{timeout}m"), &mut block);
        }
        self.calls += 1;
        if self.calls.is_multiple_of(3) {
            // A trace's id: never twice the same, so that the table turns over.
            self.field("traceparent", &format!("00-{:032x}-{:016x}-01", self.calls, self.calls), &mut block);
        }
        block
    }

    pub(crate) fn response_head(&mut self) -> Vec<u8> {
        let mut block = self.begin();
        self.field(":status", "200", &mut block);
        self.field("content-type", "application/grpc", &mut block);
        block
    }

    pub(crate) fn trailers(&mut self, status: u8) -> Vec<u8> {
        let mut block = self.begin();
        self.status(status, &mut block);
        block
    }

    pub(crate) fn trailers_only(&mut self, status: u8) -> Vec<u8> {
        let mut block = self.response_head();
        self.status(status, &mut block);
        block
    }

    fn status(&mut self, status: u8, block: &mut Vec<u8>) {
        self.field("grpc-status", &status.to_string(), block);
        self.field("grpc-message", if status == 0 { "" } else { "it failed" }, block);
    }

    fn begin(&mut self) -> Vec<u8> {
        let mut block = Vec::new();
        if std::mem::take(&mut self.untold) {
            integer(&mut block, 0x20, 5, self.limit);
        }
        block
    }

    fn field(&mut self, name: &str, value: &str, block: &mut Vec<u8>) {
        if let Some((.., index)) = STATICS.iter().find(|(n, v, _)| (*n, *v) == (name, value)) {
            return integer(block, 0x80, 7, usize::from(*index));
        }
        if let Some(place) = self.table.iter().position(|(n, v)| n == name && v == value) {
            return integer(block, 0x80, 7, 62 + place);
        }
        let known = STATIC_NAMES.iter().find(|(n, _)| *n == name).map(|(_, index)| usize::from(*index));
        let known = known.or_else(|| self.table.iter().position(|(n, _)| n == name).map(|place| 62 + place));
        let insert = !(self.way == Way::Literal && name == ":path");
        let (pattern, prefix) = if insert { (0x40, 6) } else { (0, 4) };
        integer(block, pattern, prefix, known.unwrap_or(0));
        if known.is_none() {
            string(block, name);
        }
        string(block, value);
        if insert {
            self.insert(name, value);
        }
    }

    fn insert(&mut self, name: &str, value: &str) {
        let cost = |(name, value): &(String, String)| name.len() + value.len() + OVERHEAD;
        let entry = (name.to_owned(), value.to_owned());
        self.size += cost(&entry);
        self.table.push_front(entry);
        while self.size > self.limit {
            let Some(gone) = self.table.pop_back() else { return };
            self.size -= cost(&gone);
        }
    }
}

fn integer(block: &mut Vec<u8>, pattern: u8, prefix: u8, value: usize) {
    let full = (1usize << prefix) - 1;
    if value < full {
        block.push(pattern | value as u8);
        return;
    }
    block.push(pattern | full as u8);
    let mut rest = value - full;
    while rest >= 128 {
        block.push(rest as u8 | 128);
        rest >>= 7;
    }
    block.push(rest as u8);
}

fn string(block: &mut Vec<u8>, text: &str) {
    integer(block, 0, 7, text.len());
    block.extend(text.bytes());
}
