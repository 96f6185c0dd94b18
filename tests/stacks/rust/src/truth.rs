//! What one end says of one call, written when the last hand lets go of it: so a call that the stack drops
//! because it was cancelled is written too. tonic does not tell the bytes on the wire.

use crate::plan::Plan;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Instant;

#[derive(Clone)]
pub struct Ledger(Arc<Mutex<File>>);

impl Ledger {
    pub fn create(path: &str) -> Self {
        Self(Arc::new(Mutex::new(File::create(path).expect("a truth file"))))
    }

    pub fn open(&self, plan: &Plan, method: &str, attempt: u64) -> Truth {
        let said = Said { cancelled: true, status: 1, ..Said::default() };
        let (id, method) = (plan.number("id"), method.to_owned());
        Truth(Arc::new(Open { ledger: self.clone(), id, attempt, method, started: Instant::now(), said: Mutex::new(said) }))
    }
}

#[derive(Clone)]
pub struct Truth(Arc<Open>);

struct Open {
    ledger: Ledger,
    id: u64,
    attempt: u64,
    method: String,
    started: Instant,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    status: i32,
    cancelled: bool,
    requests: u32,
    request_bytes: usize,
    responses: u32,
    response_bytes: usize,
}

impl Truth {
    pub fn request(&self, size: usize) {
        let mut said = self.0.said.lock().unwrap();
        said.requests += 1;
        said.request_bytes += size;
    }

    pub fn response(&self, size: usize) {
        let mut said = self.0.said.lock().unwrap();
        said.responses += 1;
        said.response_bytes += size;
    }

    /// The call ended with a status; without this it counts as cancelled.
    pub fn end(&self, status: i32) {
        let mut said = self.0.said.lock().unwrap();
        said.status = status;
        said.cancelled = false;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let said = self.said.lock().unwrap();
        let line = serde_json::json!({
            "id": self.id,
            "attempt": self.attempt,
            "method": self.method,
            "status": said.status,
            "requests": said.requests,
            "request_bytes": said.request_bytes,
            "responses": said.responses,
            "response_bytes": said.response_bytes,
            "request_wire": -1,
            "response_wire": -1,
            "ms": self.started.elapsed().as_secs_f64() * 1000.0,
            "cancelled": said.cancelled,
        });
        let mut file = self.ledger.0.lock().unwrap();
        writeln!(file, "{line}").expect("the truth file is writable");
    }
}
