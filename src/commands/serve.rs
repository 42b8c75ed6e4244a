//! `mopd serve`: serves a model over HTTP.

use mopd_plan::events::{Event, Job, ServeJob};

use crate::args::{Format, ServeArgs};
use crate::host;
use crate::model_argument;
use crate::output::{self, printable};
use crate::problem::{CommandStatus, Problem};
use crate::worker;

pub fn serve(arguments: &ServeArgs) -> Result<CommandStatus, Problem> {
    // An IPv6 address contains colons.
    let host = match arguments.host.as_str() {
        host if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
        host => host.to_owned(),
    };
    let job = Job::Serve(ServeJob {
        model: model_argument::source(&arguments.model),
        base: host::current_folder()?,
        name: arguments.name.clone().unwrap_or_else(|| arguments.model.clone()),
        address: format!("{host}:{}", arguments.port),
        key: arguments.key.clone(),
        updates: arguments.allow_updates.as_deref().map(host::as_text).transpose()?,
        dtype: arguments.dtype.into(),
        tokens: arguments.max_request_tokens,
        entries: arguments.max_logprobs,
    });
    let status = worker::ask(
        &job,
        |failure| failure.into(),
        |event| {
            if arguments.format == Format::Json {
                let line = serde_json::to_string(&event).expect("an event is plain data");
                output::result(&(line + "\n"));
            } else if let Event::Serving { url, model, weights, context } = event {
                let weights = &weights[..weights.len().min(12)];
                output::result(&format!(
                    "{} at {url}: weights {weights}, context {context}\n",
                    printable(&model)
                ));
            }
        },
    )?;
    Err(worker::death(status))
}
