//! `mopd report --live`: the page of a run in progress, served to this machine only. The page polls for new
//! data; no request can change anything.

mod http;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mopd_store::Lock;
use serde::Serialize;

use self::http::{PageAnswer, PageRequest, PageRequests};
use super::source::RunSources;
use super::stages::{StageData, stages};
use super::sweep::{FollowedSweep, SweepData};
use super::{LoadedRun, page};
use crate::output;
use crate::problem::{CommandStatus, Problem};
use crate::run_folder::{ColumnTable, RunFolder};
use crate::run_lock::LOCK;
use crate::run_status::{FollowedEvents, RunStatus};
use crate::worker::interrupts::Interrupts;

/// The interval at which the server checks whether it should end.
const LOOK: Duration = Duration::from_millis(100);

/// The response to `/state`.
#[derive(Serialize)]
struct LiveState<'a> {
    /// A hash of the rest: it changes with any other field.
    version: String,
    plan: &'a str,
    /// Whether the tables are there: then the page must be reloaded.
    finished: bool,
    /// Whether a command writes to the folder.
    running: bool,
    status: &'a RunStatus,
    stages: Vec<StageData>,
}

/// The run that is served.
struct FollowedRun {
    path: PathBuf,
    plan: String,
    events: FollowedEvents,
}

/// What is served.
enum Followed {
    Run(Box<FollowedRun>),
    Sweep(FollowedSweep),
}

/// The response to `/state` for a sweep.
#[derive(Serialize)]
struct LiveSweep {
    version: String,
    body: String,
    data: SweepData,
}

pub fn serve(path: &Path, port: u16) -> Result<CommandStatus, Problem> {
    let mut followed = match FollowedSweep::at(path) {
        Some(sweep) => Followed::Sweep(sweep),
        None => Followed::Run(Box::new(FollowedRun {
            path: path.to_owned(),
            plan: String::new(),
            events: FollowedEvents::default(),
        })),
    };
    followed.page()?;
    let requests = PageRequests::at(port).map_err(|error| {
        Problem::usage("no-server", format!("can't listen on port {port} of 127.0.0.1: {error}"))
            .help("`--port N` sets another port; without it, a free port is chosen")
    })?;
    let address = requests.address;
    // Handled here, since a finished run's page is made by a worker, which would get all signals otherwise.
    let interrupts = Interrupts::handled();
    output::result(&format!("http://{address}/\n"));
    output::note("open this address in a browser of this machine; Ctrl-C ends the server, not the run\n");
    while !interrupts.any() {
        if let Some(request) = requests.next(LOOK) {
            let answer = followed.answer(&request, address);
            request.respond(answer);
        }
    }
    Err(Problem::interrupted())
}

impl Followed {
    fn answer(&mut self, request: &PageRequest, address: SocketAddr) -> PageAnswer {
        let host = request.host.as_deref();
        // A page of another site whose name resolves to this machine must not read it (DNS rebinding).
        let own = [address.to_string(), format!("localhost:{}", address.port())];
        if !host.is_some_and(|host| own.iter().any(|own| own == host)) {
            return text(403, "this server can only be reached by its own address\n");
        }
        if request.method != "GET" {
            return text(405, "this server is read-only: it supports only GET\n");
        }
        let (path, query) = request.url.split_once('?').unwrap_or((&request.url, ""));
        let made = match path {
            "/" => self.page().map(|page| whole(200, "text/html; charset=utf-8", page)),
            "/state" => self.state(query.strip_prefix("since=")).map(|state| match state {
                Some(state) => whole(200, "application/json", state),
                None => whole(204, "application/json", String::new()),
            }),
            _ => return text(404, "there is no such page\n"),
        };
        made.unwrap_or_else(|problem| text(500, &format!("{}\n", problem.message())))
    }

    fn page(&mut self) -> Result<String, Problem> {
        match self {
            Followed::Run(run) => run.page(),
            Followed::Sweep(sweep) => sweep.view()?.page(true),
        }
    }

    /// `None` where the page already has this state.
    fn state(&mut self, since: Option<&str>) -> Result<Option<String>, Problem> {
        let sweep = match self {
            Followed::Run(run) => return run.state(since),
            Followed::Sweep(sweep) => sweep.view()?,
        };
        let version = sweep.version();
        if since == Some(version.as_str()) {
            return Ok(None);
        }
        json(&LiveSweep { version, body: sweep.body, data: sweep.data }).map(Some)
    }
}

impl FollowedRun {
    fn page(&mut self) -> Result<String, Problem> {
        let folder = self.look()?;
        let live = !self.is_finished(&folder);
        let run = if live { self.loaded(folder) } else { LoadedRun::load(folder, self.name(), &[])? };
        page::page(&[run], live)
    }

    /// `None` where the page already has this state.
    fn state(&mut self, since: Option<&str>) -> Result<Option<String>, Problem> {
        let folder = self.look()?;
        let version = self.version(&folder);
        if since == Some(version.as_str()) {
            return Ok(None);
        }
        let (finished, running) = (self.is_finished(&folder), self.is_running());
        let stages = if finished {
            Vec::new()
        } else {
            let run = self.loaded(folder);
            stages(&run, &mut RunSources::new(&run), 1).0
        };
        let state =
            LiveState { version, plan: &self.plan, finished, running, status: &self.events.status, stages };
        json(&state).map(Some)
    }

    /// Reads what was added since the last call. An edit under `mopd watch` makes another run of the folder.
    fn look(&mut self) -> Result<RunFolder, Problem> {
        let folder = RunFolder::open(&self.path)?;
        if folder.plan.hash != self.plan {
            self.plan.clone_from(&folder.plan.hash);
            self.events = FollowedEvents::default();
        }
        self.events.follow(&self.path)?;
        Ok(folder)
    }

    /// The data that exists before the end of the run: no table, no samples.
    fn loaded(&self, folder: RunFolder) -> LoadedRun {
        LoadedRun {
            metrics: self.events.so_far.metrics(),
            folder,
            failure: None,
            name: self.name(),
            place: 0,
            stages_before: 0,
            samples: ColumnTable::default(),
            weights: ColumnTable::default(),
            differences: Vec::new(),
            answers: Vec::new(),
            meaning: None,
            common: None,
        }
    }

    fn name(&self) -> String {
        super::names(std::slice::from_ref(&self.path)).remove(0)
    }

    fn is_running(&self) -> bool {
        let held = |folder: &Path| Lock::is_held(&folder.join(LOCK));
        // The lock of a sweep is in the folder above its runs.
        held(&self.path) || self.path.parent().is_some_and(held)
    }

    /// A run that is repeated has results from before, and new events.
    fn is_finished(&self, folder: &RunFolder) -> bool {
        folder.results.is_some() && self.events.so_far.read == 0
    }

    fn version(&self, folder: &RunFolder) -> String {
        let plan: String = folder.plan.hash.chars().take(12).collect();
        format!("{plan}-{}-{}-{}", self.events.so_far.read, folder.results.is_some(), self.is_running())
    }
}

fn json(state: &impl Serialize) -> Result<String, Problem> {
    serde_json::to_string(state)
        .map_err(|error| Problem::run("no-report", format!("the page's data can't be written: {error}")))
}

fn whole(status: u16, kind: &'static str, body: String) -> PageAnswer {
    PageAnswer { status, kind, body }
}

fn text(status: u16, body: &str) -> PageAnswer {
    whole(status, "text/plain; charset=utf-8", body.to_owned())
}
