//! The history service: answers of `kiln why`.

use kiln_proto::history::{Build, ExplainRequest, ExplainResponse, history_server};
use kiln_why::NoStep;
use tonic::{Request, Response, Status};

use super::History;

/// The history service of a daemon.
#[derive(Clone, Debug)]
pub(crate) struct HistoryService(pub(crate) History);

/// From so many characters on, the beginning of a ref is enough.
const MIN_PREFIX: usize = 4;
/// So many refs are told to whoever asks for one that is not there.
const TOLD: usize = 5;

#[tonic::async_trait]
impl history_server::History for HistoryService {
    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let (history, request) = (self.0.clone(), request.into_inner());
        let turn = history.turns().take().await?;
        let answer = tokio::task::spawn_blocking(move || {
            let answer = explain(&history, &request);
            // The work goes on when its client has left, and counts until it is done.
            drop(turn);
            answer
        });
        answer.await.map_err(|error| Status::internal(error.to_string()))?.map(Response::new)
    }
}

fn explain(history: &History, request: &ExplainRequest) -> Result<ExplainResponse, Status> {
    let failed = |error: std::io::Error| Status::internal(format!("reading the records of builds: {error}"));
    let (mut builds, problems) = history.builds().map_err(failed)?;
    let at = find(&builds, &request.r#ref, &problems)?;
    let earlier = builds.split_off(at + 1);
    let build = builds.pop().ok_or_else(|| Status::internal("the build is gone"))?;
    let answer = kiln_why::explain(build, earlier, &request.step, &|digest| history.files(digest));
    let mut answer = answer.map_err(|NoStep { wanted, names }| {
        let names: Vec<_> = names.iter().map(|name| format!("\n  {name}")).collect();
        Status::not_found(format!("no step of the build is called {wanted:?}; there are:{}", names.concat()))
    })?;
    answer.warnings.extend(problems);
    let document = serde_json::to_vec(&answer).map_err(|error| Status::internal(error.to_string()))?;
    Ok(ExplainResponse { document: document.into() })
}

/// The place of a build: the last one, or that of a ref or the beginning of one.
fn find(builds: &[Build], wanted: &str, problems: &[String]) -> Result<usize, Status> {
    // buildx puts the names of builder and node before it.
    let wanted = wanted.rsplit('/').next().unwrap_or(wanted);
    if builds.is_empty() {
        let problems: Vec<_> = problems.iter().map(|problem| format!("; {problem}")).collect();
        return Err(Status::not_found(format!("no build has ended here yet{}", problems.concat())));
    }
    if wanted.is_empty() {
        return Ok(0);
    }
    if let Some(at) = builds.iter().position(|build| build.r#ref == wanted) {
        return Ok(at);
    }
    let all: Vec<usize> = (0..builds.len()).filter(|at| builds[*at].r#ref.starts_with(wanted)).collect();
    let told = |places: &[usize]| {
        let refs: Vec<_> = places.iter().take(TOLD).map(|at| builds[*at].r#ref.as_str()).collect();
        refs.join(", ")
    };
    let problem = match all[..] {
        [at] if wanted.len() >= MIN_PREFIX => return Ok(at),
        [_] => format!("{wanted} is too short for the beginning of a ref; want {MIN_PREFIX} characters"),
        [] => {
            let last: Vec<usize> = (0..builds.len().min(TOLD)).collect();
            format!("no build {wanted} is known; the last ones are {}", told(&last))
        }
        _ => format!("several builds' refs begin with {wanted}: {}", told(&all)),
    };
    Err(Status::not_found(problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_found_by_ref_or_its_beginning() {
        let build = |reference: &str| Build { r#ref: reference.into(), ..Build::default() };
        let builds = [build("abcdef"), build("abcxyz"), build("q")];
        let place = |wanted: &str| find(&builds, wanted, &[]).map_err(|e| e.message().to_owned());
        assert_eq!(place(""), Ok(0));
        assert_eq!(place("q"), Ok(2));
        assert_eq!(place("builder/node/abcx"), Ok(1));
        assert!(place("abd").unwrap_err().contains("abcdef, abcxyz, q"));
        assert!(place("abc").unwrap_err().contains("begin with abc: abcdef, abcxyz"));
        assert!(place("abcd").is_ok() && place("ab").is_err());
        assert!(place("abx").is_err());
        let builds = [build("abcdef"), build("abcdxyz")];
        assert!(find(&builds, "abcd", &[]).unwrap_err().message().contains("several"));
        let none = find(&[], "", &["a record is left out: x".into()]).unwrap_err();
        assert!(none.message().contains("left out: x"));
    }
}
