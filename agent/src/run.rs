//! Joins the parts: the only file that knows all of them. Sources fill one bounded queue, one task owns the
//! pipeline, outputs read what it publishes.

pub(crate) mod inference;
mod watch;

use crate::config::Config;
use crate::outputs::recording::{self, Recorder};
use crate::outputs::{Published, http};
use crate::sources::cgroups::Cgroups;
use crate::sources::probes::{Options, Probes, clock};
use crate::sources::{elsewhere, heap, tls};
use anyhow::{Context, bail};
use faultline_core::event::{Event, Missing, Started};
use faultline_core::pipeline::Pipeline;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch as signalled};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use watch::Watch;

/// Events between sources and pipeline: a tenth of a second at 100,000 segments/s, tens of megabytes at
/// most. When it is full the sources wait or count a loss; they never hold up the kernel.
const QUEUE: usize = 16_384;

/// How often cgroup files are read: counters lose nothing between two readings.
const CGROUP_INTERVAL: Duration = Duration::from_secs(1);

/// News of libraries on their way to who attaches to them; who finds them waits when it is full.
const LIBRARIES: usize = 64;

/// One thread drains the kernel's ring while another closes a step.
const THREADS: usize = 2;

/// The last events and the recording's end are written within this, or not at all.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the agent runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To serve what it sees, until it is stopped.
    Serve,
    /// To write a recording, for a time or until it is stopped; opens no port.
    Record(Option<Duration>),
}

/// Runs the agent until a signal, the end of its time, or a failure.
///
/// # Errors
/// When a required part cannot be had or breaks: each error says which, and what to do.
pub fn run(config: Config, purpose: Purpose) -> anyhow::Result<()> {
    heap::limit();
    log_to_stderr(&config.log)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let result = runtime.block_on(start(Arc::new(config), purpose));
    // A request that never ends must not keep the agent.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

async fn start(config: Arc<Config>, purpose: Purpose) -> anyhow::Result<()> {
    let mut signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // What can be refused is tried first, while nothing has to be undone.
    let listener = match purpose {
        Purpose::Serve => Some(listen(config.listen).await?),
        Purpose::Record(_) => None,
    };
    let probes = Probes::attach(&Options {
        cgroup_root: config.cgroup_root.clone(),
        ring_bytes: config.ring_size,
        // Their messages cost time in the kernel, so the programs are loaded without them unless asked for.
        kernel_log: tracing::enabled!(target: "faultline_probes", tracing::Level::DEBUG),
        tls: config.tls.is_some(),
    })?;

    let published = Arc::new(Published::default());
    if let Some(cost) = probes.tls_cost() {
        info!(
            nanoseconds = cost.nanos(),
            "watching TLS; so much a probe costs the process that runs into it"
        );
        published.count_tls(cost);
    }
    let (stop, stopped) = signalled::channel(false);
    let (sender, events) = mpsc::channel(QUEUE);
    let pipeline = pipeline(&config, &published, events, &sender).await?;
    let mut tasks = JoinSet::new();
    sources(&mut tasks, probes, &config, sender, &stopped).await;
    if let Some(listener) = listener {
        info!(node = %config.node, "watching; http://{}/ shows the map", listener.local_addr()?);
        let mut stopped = stopped.clone();
        let until = async move {
            let _closed = stopped.wait_for(|stop| *stop).await;
        };
        tasks.spawn(async move {
            http::serve_until(listener, published, until).await.context("the HTTP output broke")
        });
    }

    let ended = tokio::select! {
        _ = signals.0.recv() => Ok(()),
        _ = signals.1.recv() => Ok(()),
        () = over(purpose) => Ok(()),
        Some(task) = tasks.join_next() => broken(task),
    };
    info!("stopping");
    let _nobody = stop.send(true);
    farewell(tasks, pipeline).await.and(ended)
}

/// Starts the task that owns the pipeline.
async fn pipeline(
    config: &Arc<Config>,
    published: &Arc<Published>,
    events: mpsc::Receiver<Event>,
    sender: &mpsc::Sender<Event>,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    let started = Started { at: clock::now(), unix_zero: clock::unix_zero(), node: Arc::clone(&config.node) };
    sender.send(Event::Started(started)).await.context("the queue is closed")?;
    let model = match inference::model(&config.model, clock::now()) {
        Ok(model) => Some(model),
        Err(missing) => {
            warn!("{}; the agent goes on without scores", missing.reason);
            sender.send(Event::Missing(missing)).await.context("the queue is closed")?;
            None
        }
    };
    let header = recording::header(&config.settings, model.as_deref());
    let recorder = config.record.as_deref().map(|path| Recorder::start(path, &header)).transpose()?;
    let pipeline = Pipeline::new(config.settings.clone(), model);
    let watch = Watch::new(pipeline, Arc::clone(config), Arc::clone(published), recorder);
    Ok(tokio::spawn(watch.drive(events, clock::now)))
}

/// Starts the sources; the queue ends when the last of them does.
async fn sources(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    probes: Probes,
    config: &Config,
    sender: mpsc::Sender<Event>,
    stopped: &signalled::Receiver<bool>,
) {
    match Cgroups::discover(config.cgroup_root.as_deref()) {
        Ok(cgroups) => {
            let config = config.clone();
            let cgroups = cgroups.with_names(move |path| config.name_of(path));
            let (sender, stopped) = (sender.clone(), stopped.clone());
            tasks.spawn(async move {
                cgroups.run(sender, CGROUP_INTERVAL, stopped).await;
                Ok(())
            });
        }
        Err(error) => {
            let missing = Missing {
                at: clock::now(),
                part: "cgroup files".into(),
                reason: error.to_string().into(),
                fix: "see the reason".into(),
            };
            // Without a receiver there is nobody to tell.
            let _unheard = sender.send(Event::Missing(missing)).await;
        }
    }
    let probes = match config.tls.clone() {
        Some(selection) => {
            let (changes, libraries) = mpsc::channel(LIBRARIES);
            let watch = tls::Watch::new(Path::new("/proc"), selection);
            let stopped = stopped.clone();
            tasks.spawn(async move {
                watch.run(changes, stopped).await;
                Ok(())
            });
            probes.with_libraries(libraries)
        }
        None => probes,
    };
    tasks.spawn({
        let (sender, stopped) = (sender.clone(), stopped.clone());
        async move {
            elsewhere::run(sender, stopped).await;
            Ok(())
        }
    });
    tasks.spawn({
        let (sender, stopped) = (sender.clone(), stopped.clone());
        async move { probes.run(sender, stopped).await.context("the kernel's records cannot be read") }
    });
}

/// The port, or an error that says who could have it.
async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow::anyhow!(
            "cannot listen on {address}: the port is in use, perhaps by another agent; choose one with --listen"
        ),
        ErrorKind::PermissionDenied => anyhow::anyhow!(
            "cannot listen on {address}: not permitted; choose a port from 1024 on with --listen"
        ),
        _ => anyhow::anyhow!("cannot listen on {address}: {error}; give an address of this host with --listen"),
    })
}

async fn over(purpose: Purpose) {
    match purpose {
        Purpose::Record(Some(time)) => tokio::time::sleep(time).await,
        Purpose::Serve | Purpose::Record(None) => std::future::pending().await,
    }
}

/// A task that ends before it is told to is a failure, whatever it says.
fn broken(task: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    match task {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) => bail!("a source ended by itself; start the agent again and report this with its log"),
        Err(error) => Err(error).context("a part of the agent broke; start it again and report this"),
    }
}

/// Waits for what was seen to be handled and the recording to be finished.
async fn farewell(
    mut tasks: JoinSet<anyhow::Result<()>>,
    pipeline: JoinHandle<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let all = async {
        while let Some(task) = tasks.join_next().await {
            task.context("a part of the agent broke")??;
        }
        pipeline.await.context("the pipeline broke")?
    };
    match tokio::time::timeout(FAREWELL, all).await {
        Ok(result) => result,
        Err(_) => bail!("the agent did not end within {} s; the recording may be cut", FAREWELL.as_secs()),
    }
}

fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    let parsed = EnvFilter::try_new(filter).with_context(|| {
        format!("--log is `{filter}`, but must be a level or a filter such as `faultline=debug`")
    })?;
    let colours =
        std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    // A second subscriber cannot be: this process has set none before.
    let _set = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .try_init();
    Ok(())
}
