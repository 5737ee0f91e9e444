//! Lists of builds, as clients of the control service see them.

use std::sync::{Arc, Mutex};

use kiln_proto::{
    content::{ReadContentRequest, content_client::ContentClient},
    control::{
        BuildHistoryEvent, BuildHistoryEventType as Kind, BuildHistoryRecord, BuildHistoryRequest,
        StatusRequest, UpdateBuildHistoryRequest, control_client::ControlClient,
    },
    rpc,
};
use prost::Message as _;
use tonic::{Code, transport::Channel};

use crate::support::{Bench, Daemon, Left, alone, assert_sound, connect, wait_for};

type Control = ControlClient<Channel>;

async fn list(control: &mut Control, request: BuildHistoryRequest) -> Vec<BuildHistoryEvent> {
    let request = BuildHistoryRequest { early_exit: true, ..request };
    let mut stream = control.listen_build_history(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        all.push(event);
    }
    all
}

async fn records(control: &mut Control, filter: &str) -> Vec<BuildHistoryRecord> {
    let filter = vec![filter.to_owned()];
    let events = list(control, BuildHistoryRequest { filter, ..Default::default() }).await;
    assert!(events.iter().all(|event| event.r#type() == Kind::Complete), "{events:?}");
    events.into_iter().map(|event| event.record.unwrap()).collect()
}

/// The names of a build's steps, by its log.
async fn steps(control: &mut Control, reference: &str) -> Vec<String> {
    let request = StatusRequest { r#ref: reference.into() };
    let mut stream = control.status(request).await.unwrap().into_inner();
    let mut names = std::collections::BTreeSet::new();
    while let Some(message) = stream.message().await.unwrap() {
        names.extend(message.vertexes.into_iter().map(|vertex| vertex.name));
    }
    names.into_iter().collect()
}

async fn update(control: &mut Control, request: UpdateBuildHistoryRequest) -> Result<(), Code> {
    control.update_build_history(request).await.map(drop).map_err(|status| status.code())
}

#[test]
fn builds_are_listed_read_again_pinned_and_forgotten() {
    let Some(_alone) = alone() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut bench = Bench::new();
    let address = bench.daemon.address();
    let mut control = ControlClient::new(runtime.block_on(connect(&address)));
    let listening = control.listen_build_history(BuildHistoryRequest::default());
    let mut listening = runtime.block_on(listening).unwrap().into_inner();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    runtime.spawn(async move {
        while let Ok(Some(event)) = listening.message().await {
            hears.lock().unwrap().push((event.r#type(), event.record.unwrap().r#ref));
        }
    });

    let well = "FROM BASE\nRUN cat /etc/passwd > /well\n";
    let build = bench.build(well).arg("--opt=build-arg:WHO=me").arg("--opt=vcs:revision=abc");
    build.archive(&bench.path().join("a.tar")).run(&address);
    bench.fails("FROM BASE\nRUN exit 3\n");

    runtime.block_on(async {
        let all = records(&mut control, "").await;
        let [bad, good] = &all[..] else { panic!("{all:#?}") };
        assert_eq!((good.frontend.as_str(), good.exporters[0].r#type.as_str()), ("dockerfile.v0", "oci"));
        for (key, value) in [("build-arg:WHO", "me"), ("vcs:revision", "abc")] {
            assert_eq!(good.frontend_attrs.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert!(good.error.is_none() && good.exporter_response.contains_key("containerimage.digest"));
        let made = &good.result.as_ref().unwrap().results;
        let digest = made.get(&0).map(|made| &made.digest);
        assert_eq!((made.len(), digest), (1, good.exporter_response.get("containerimage.digest")));
        assert!(good.num_total_steps >= 2 && good.num_completed_steps == good.num_total_steps, "{good:#?}");
        let error = bad.error.as_ref().unwrap();
        assert!(error.code != 0 && error.message.contains("exit code: 3"), "{error:?}");
        // With all its details it is a blob.
        let named = bad.external_error.as_ref().unwrap();
        let request = ReadContentRequest { digest: named.digest.clone(), ..Default::default() };
        let mut content = ContentClient::new(connect(&address).await);
        let mut blob = content.read(request).await.unwrap().into_inner();
        let mut data = Vec::new();
        while let Some(piece) = blob.message().await.unwrap() {
            data.extend(piece.data);
        }
        assert_eq!(data.len() as i64, named.size);
        let whole = rpc::Status::decode(data.as_slice()).unwrap();
        assert!(whole.message == error.message && !whole.details.is_empty(), "{whole:?}");
        assert_eq!(records(&mut control, "status==error").await, std::slice::from_ref(bad));
        assert!(records(&mut control, "startedAt<1h,status==completed").await.is_empty());
        let one = BuildHistoryRequest { limit: 1, ..Default::default() };
        assert_eq!(list(&mut control, one).await[0].record.as_ref(), Some(bad));
        let pin = UpdateBuildHistoryRequest { r#ref: good.r#ref.clone(), pinned: true, ..Default::default() };
        assert_eq!(update(&mut control, pin).await, Ok(()));
    });

    let heard = wait_for("what is told to who listens", || {
        let heard = heard.lock().unwrap();
        (heard.len() == 5).then(|| heard.clone())
    });
    // What is listed outlives the daemon.
    bench.daemon.kill();
    bench.daemon = Daemon::start(bench.folder.path());
    let address = bench.daemon.address();
    runtime.block_on(async {
        let mut control = ControlClient::new(connect(&address).await);
        let all = records(&mut control, "").await;
        let [bad, good] = &all[..] else { panic!("{all:#?}") };
        assert!(good.pinned && !bad.pinned);
        let name = |record: &BuildHistoryRecord| record.r#ref.clone();
        let expected = [
            (Kind::Started, name(good)),
            (Kind::Complete, name(good)),
            (Kind::Started, name(bad)),
            (Kind::Complete, name(bad)),
            (Kind::Complete, name(good)),
        ];
        assert_eq!(heard, expected);
        let step = |text: &'static str| move |name: &String| name.ends_with(text);
        assert!(steps(&mut control, &good.r#ref).await.iter().any(step("RUN cat /etc/passwd > /well")));
        assert!(steps(&mut control, &bad.r#ref).await.iter().any(step("RUN exit 3")));

        let of = |record: &BuildHistoryRecord| UpdateBuildHistoryRequest {
            r#ref: record.r#ref.clone(),
            ..Default::default()
        };
        assert_eq!(
            update(&mut control, UpdateBuildHistoryRequest { finalize: true, ..of(bad) }).await,
            Ok(())
        );
        let delete = UpdateBuildHistoryRequest { delete: true, ..of(bad) };
        assert_eq!(update(&mut control, delete.clone()).await, Ok(()));
        assert_eq!(update(&mut control, delete).await, Err(Code::NotFound));
        assert_eq!(update(&mut control, of(good)).await, Ok(()));
        let left = records(&mut control, "").await;
        assert!(left.len() == 1 && left[0].r#ref == good.r#ref && !left[0].pinned, "{left:#?}");
        let wrong = BuildHistoryRequest { filter: vec!["duration>soon".into()], ..Default::default() };
        let error = control.listen_build_history(wrong).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    });
    let root = bench.path().join("root");
    bench.daemon.stop();
    Left::no_processes();
    assert_sound(&root);
}

#[test]
fn a_build_may_be_forgotten_while_it_runs() {
    let Some(_alone) = alone() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bench = Bench::new();
    let mut control = ControlClient::new(runtime.block_on(connect(&bench.daemon.address())));
    let mark = format!("RUN wget -q -O /dev/null http://{}/mark/history; sleep 2", bench.registry.address);
    let running = bench.build(&format!("FROM BASE\n{mark}\n")).start(&bench.daemon.address());
    wait_for("the step", || bench.registry.mark("history"));
    runtime.block_on(async {
        let active = BuildHistoryRequest { active_only: true, ..Default::default() };
        let events = list(&mut control, active.clone()).await;
        let [BuildHistoryEvent { record: Some(record), .. }] = &events[..] else { panic!("{events:#?}") };
        assert!(events[0].r#type() == Kind::Started && record.completed_at.is_none());
        let of = UpdateBuildHistoryRequest { r#ref: record.r#ref.clone(), ..Default::default() };
        let pin = UpdateBuildHistoryRequest { pinned: true, ..of.clone() };
        assert_eq!(update(&mut control, pin).await, Err(Code::FailedPrecondition));
        assert_eq!(update(&mut control, UpdateBuildHistoryRequest { delete: true, ..of }).await, Ok(()));
        assert!(list(&mut control, active).await.is_empty());
    });
    assert!(running.end().success);
    assert!(runtime.block_on(list(&mut control, BuildHistoryRequest::default())).is_empty());
    bench.end();
}
