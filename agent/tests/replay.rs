//! A replay says what the live run said, byte for byte, and refuses what is no whole recording.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use faultline::config::ModelFiles;
use faultline::sources::replay::reports;
use faultline_core::call::{Call, Ending, Messages, Method, Status, StatusSource, View};
use faultline_core::event::{CgroupIdentity, Event, Opened, Role, Started};
use faultline_core::pipeline::{GRACE, Pipeline, Settings};
use faultline_core::recording::{Header, Writer};
use faultline_core::units::{CgroupId, ConnectionId, Nanos, StreamId, Timestamp};

const STEP: Nanos = Nanos::from_secs(1);

fn at(millis: u64) -> Timestamp {
    Timestamp(0) + Nanos::from_millis(millis)
}

/// A caller and a callee on one node, whose connection has two ends.
fn beginning() -> Vec<Event> {
    let mut events = vec![Event::Started(Started {
        at: at(0),
        unix_zero: 1_700_000_000_000_000_000,
        node: "node-1".into(),
    })];
    let ends = [(1, "front", Role::Client, "10.0.0.1:4000"), (2, "back", Role::Server, "10.0.0.2:50051")];
    for (id, name, role, local) in ends {
        events.push(Event::Identity(Box::new(CgroupIdentity {
            at: at(1),
            cgroup: CgroupId(id),
            path: format!("/{name}").into(),
            configured: Some(name.into()),
            ..CgroupIdentity::default()
        })));
        let remote = if role == Role::Client { "10.0.0.2:50051" } else { "10.0.0.1:4000" };
        events.push(Event::Opened(Opened {
            at: at(2),
            connection: ConnectionId(id),
            cgroup: CgroupId(id),
            role,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            connect_time: None,
        }));
    }
    events
}

fn call(view: View, connection: u64, number: u32, started: Timestamp) -> Event {
    let messages = Messages { count: 1, bytes: 100 + u64::from(number), exact: true };
    Event::Call(Box::new(Call {
        connection: ConnectionId(connection),
        stream: StreamId(2 * number + 1),
        view,
        method: Method::Named("shop.Back/Ask".into()),
        authority: Some("back".into()),
        status: Status {
            code: Some(if number.is_multiple_of(7) { 14 } else { 0 }),
            source: StatusSource::Wire,
        },
        ending: Ending::Trailers,
        started,
        first_response: None,
        duration: Nanos::from_millis(3 + u64::from(number % 5)),
        request: messages,
        response: messages,
        deadline: None,
        previous_attempts: None,
        encoding: None,
    }))
}

/// Thirty steps of calls through a live pipeline: the recording, and what the pipeline said.
fn live() -> (Vec<u8>, Vec<String>) {
    let settings = Settings { step_length: STEP, baseline_steps: 5, ..Settings::default() };
    let header = Header { settings: settings.clone(), model_digest: None, agent: "test".to_owned() };
    let mut recording = Writer::start(Vec::new(), &header).unwrap();
    let mut pipeline = Pipeline::new(settings, None);
    let mut said = Vec::new();
    for event in beginning() {
        pipeline.handle(event, |event| recording.event(event).unwrap());
    }
    for step in 0..30 {
        for number in 0..40 {
            let started = at(step * 1000 + u64::from(number) * 20 + 10);
            for (view, connection) in [(View::Client, 1), (View::Server, 2)] {
                pipeline
                    .handle(call(view, connection, number, started), |event| recording.event(event).unwrap());
            }
        }
        let now = at((step + 1) * 1000) + GRACE;
        let report = pipeline.tick(now, |event| recording.event(event).unwrap());
        recording.tick(now).unwrap();
        said.extend(report.map(|report| serde_json::to_string(&report).unwrap()));
    }
    (recording.finish().unwrap(), said)
}

fn replay(recording: &[u8]) -> (anyhow::Result<()>, Vec<String>) {
    let mut said = Vec::new();
    let result = reports(recording, &ModelFiles::default(), |report| {
        said.push(serde_json::to_string(&report)?);
        Ok(())
    });
    (result, said)
}

#[test]
fn a_replay_says_what_the_live_run_said() {
    let (recording, said) = live();
    assert_eq!(said.len(), 30);
    let last = said.last().unwrap();
    assert!(last.contains("\"name\":\"back\"") && last.contains("\"calls_total\":1200"), "{last}");
    for _ in 0..2 {
        let (result, again) = replay(&recording);
        result.unwrap();
        assert_eq!(again, said);
    }
}

#[test]
fn a_cut_recording_gives_what_it_has_and_says_that_it_is_cut() {
    let (recording, said) = live();
    let (result, again) = replay(&recording[..recording.len() / 2]);
    assert!(result.unwrap_err().to_string().contains("truncated"));
    assert!(!again.is_empty() && said.starts_with(&again));
}

#[test]
fn a_recording_with_a_model_needs_that_model() {
    let header =
        Header { settings: Settings::default(), model_digest: Some([7; 32]), agent: "test".to_owned() };
    let recording = Writer::start(Vec::new(), &header).unwrap().finish().unwrap();
    let (result, _) = replay(&recording);
    assert!(result.unwrap_err().to_string().contains("0707"));
}
