//! Spans and events reach the program's subscriber, or stderr if DDP_LOG asks for them. A subscriber is the process's, so these
//! tests run in processes of their own.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests fail by panicking")]

use std::fmt::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};

use ddp_runtime::optim::{Sgd, SgdOptions};
use ddp_runtime::{Context, Run, Snapshots};
use serde_json::Value;
use tch::nn;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{self, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Names the test that a process of its own is to run.
const CHILD: &str = "DDP_TEST_CHILD";

/// A run of two steps, the second in another epoch, and a snapshot.
fn run() {
    let context = Context::init().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let vs = nn::VarStore::new(context.device());
    let _model = nn::linear(vs.root(), 2, 1, Default::default());
    let optimizer = Sgd::new(&vs, SgdOptions::default());
    let snapshots = Snapshots::open(&context, dir.path()).unwrap().blocking(true);
    let mut run = Run::new(&context, &vs, optimizer).snapshots(snapshots).resume(&mut ()).unwrap();
    assert_eq!(run.next_epoch(2), Some(0));
    run.log("loss", 0.5).unwrap();
    run.step_done(&()).unwrap();
    run.epoch_done().unwrap();
    assert_eq!(run.next_epoch(2), Some(1));
    run.step_done(&()).unwrap();
    run.save().unwrap();
}

/// Notes the fields of spans, and each span when it ends.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> layer::Layer<S> for Notes {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: layer::Context<'_, S>) {
        let mut fields = Fields(attributes.metadata().name().to_owned());
        attributes.record(&mut fields);
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: layer::Context<'_, S>) {
        values.record(context.span(id).unwrap().extensions_mut().get_mut::<Fields>().unwrap());
    }

    fn on_close(&self, id: Id, context: layer::Context<'_, S>) {
        let text = context.span(&id).unwrap().extensions().get::<Fields>().unwrap().0.clone();
        self.0.lock().unwrap().push(text);
    }
}

fn stderr_of_child(test: &str, variables: &[(&str, &str)]) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, test);
    child.env_remove("DDP_LOG").env_remove("DDP_LOG_FORMAT").envs(variables.iter().copied());
    let output = child.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{}{stderr}", String::from_utf8_lossy(&output.stdout));
    stderr
}

fn is_child(test: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|name| name == test)
}

#[test]
fn tracing_spans_reach_the_programs_subscriber() {
    const NAME: &str = "tracing_spans_reach_the_programs_subscriber";
    if !is_child(NAME) {
        // The program's subscriber wins over DDP_LOG.
        assert_eq!(stderr_of_child(NAME, &[("DDP_LOG", "trace")]), "");
        return;
    }
    let notes = Notes::default();
    tracing_subscriber::registry().with(notes.clone()).init();
    run();
    let ended = notes.0.lock().unwrap().clone();
    let index = |name: &str| {
        ended.iter().position(|span| span.starts_with(name)).unwrap_or_else(|| panic!("{name}: {ended:?}"))
    };
    assert!(ended.contains(&"step epoch=0 step=1 loss=0.5".to_owned()), "{ended:?}");
    assert!(ended.contains(&"step epoch=1 step=2".to_owned()), "{ended:?}");
    assert!(index("epoch epoch=0") < index("epoch epoch=1"), "{ended:?}");
    assert!(index("snapshot epoch=1 step=2") < index("run rank=0 world_size=1 restarts=0"), "{ended:?}");
    assert!(index("step epoch=0 step=1") < index("epoch epoch=0"), "{ended:?}");
}

#[test]
fn tracing_lines_go_to_stderr_only_if_ddp_log_is_set() {
    const NAME: &str = "tracing_lines_go_to_stderr_only_if_ddp_log_is_set";
    if is_child(NAME) {
        return run();
    }
    assert_eq!(stderr_of_child(NAME, &[]), "");
    let text = stderr_of_child(NAME, &[("DDP_LOG", "ddp_runtime=debug")]);
    let group = text.lines().find(|line| line.contains("process group created"));
    assert!(group.is_some_and(|line| line.starts_with("rank=0 ") && line.contains("DEBUG")), "{text}");
    assert!(!text.contains('\x1b') && !text.contains("collective starts"), "{text}");
    assert!(stderr_of_child(NAME, &[("DDP_LOG", "trace")]).contains("collective starts"));

    let json = stderr_of_child(NAME, &[("DDP_LOG", "debug"), ("DDP_LOG_FORMAT", "json")]);
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line["rank"] == 0), "{json}");
    let saved = lines.iter().find(|line| line["fields"]["message"] == "snapshot saved").unwrap();
    assert_eq!((&saved["span"]["name"], &saved["span"]["step"]), (&"snapshot".into(), &2.into()), "{json}");

    let wrong = stderr_of_child(NAME, &[("DDP_LOG", "ddp_runtime=loud")]);
    assert!(
        wrong.starts_with("warning: invalid DDP_LOG `ddp_runtime=loud`: ") && wrong.lines().count() == 1,
        "{wrong}"
    );
}
