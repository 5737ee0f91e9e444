//! What was asked of the builds that are under way, by what came of it: what one of them makes may be an input of another, whose
//! provenance tells of both.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use kiln_exporter::attestation::provenance::{Request, filter_args};
use kiln_frontend::{Bridge, FrontendResult, GATEWAY, dockerfile::NAME as DOCKERFILE};
use kiln_oci::Digest;
use kiln_proto::pb;
use prost::Message as _;

/// The requests of a daemon's builds.
#[derive(Debug)]
pub(crate) struct Producers<B = Bridge>(Mutex<Requests<B>>);

#[derive(Debug)]
struct Requests<B> {
    /// What clients asked for.
    roots: Vec<Asked<B>>,
    /// By the vertex that a result is an output of, what was asked of the frontend that gave it.
    made: HashMap<Digest, Vec<Asked<B>>>,
}

/// A request. It counts as long as its build lasts.
#[derive(Debug)]
struct Asked<B> {
    build: Weak<B>,
    request: Request,
}

impl<B> Default for Producers<B> {
    fn default() -> Self {
        Self(Mutex::new(Requests { roots: Vec::new(), made: HashMap::new() }))
    }
}

impl<B> Asked<B> {
    fn is_of(&self, build: &Arc<B>) -> bool {
        std::ptr::eq(self.build.as_ptr(), Arc::as_ptr(build))
    }

    fn counts(&self) -> bool {
        self.build.strong_count() > 0
    }
}

impl Producers {
    /// Remembers what came of a request.
    pub(crate) fn made(&self, build: &Arc<Bridge>, request: &Request, result: &FrontendResult) {
        // No frontend was asked: the definition says all.
        if request.frontend.is_empty() {
            return;
        }
        for one in result.refs.iter() {
            self.remember(build, request, one.graph().root().vertex.clone());
        }
    }
}

impl<B> Producers<B> {
    fn lock(&self) -> MutexGuard<'_, Requests<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A build begins for which a client has asked.
    pub(crate) fn begin(
        &self,
        build: &Arc<B>,
        frontend: &str,
        attrs: &BTreeMap<String, String>,
        inputs: &BTreeMap<String, pb::Definition>,
    ) {
        let request = self.plain(frontend, attrs, inputs);
        let mut all = self.lock();
        all.roots.retain(Asked::counts);
        all.made.retain(|_, asked| {
            asked.retain(Asked::counts);
            !asked.is_empty()
        });
        all.roots.push(Asked { build: Arc::downgrade(build), request });
    }

    /// What is asked of a frontend in the course of a build.
    pub(crate) fn request(
        &self,
        build: &Arc<B>,
        frontend: &str,
        attrs: &BTreeMap<String, String>,
        inputs: &BTreeMap<String, pb::Definition>,
    ) -> Request {
        let mut request = self.plain(frontend, attrs, inputs);
        let root =
            self.lock().roots.iter().find(|asked| asked.is_of(build)).map(|asked| asked.request.clone());
        request.root = root.filter(|root| *root != request && *root != Request::default()).map(Box::new);
        request
    }

    fn remember(&self, build: &Arc<B>, request: &Request, vertex: Digest) {
        let mut all = self.lock();
        let known = all.made.entry(vertex).or_default();
        if !known.iter().any(|known| known.is_of(build) && known.request == *request) {
            known.push(Asked { build: Arc::downgrade(build), request: request.clone() });
        }
    }

    fn plain(
        &self,
        frontend: &str,
        attrs: &BTreeMap<String, String>,
        inputs: &BTreeMap<String, pb::Definition>,
    ) -> Request {
        let (frontend, attrs) = directly(frontend, attrs.clone());
        let known = inputs.iter().filter_map(|(name, input)| Some((name.clone(), self.of(input)?)));
        Request { frontend, args: filter_args(&attrs), inputs: known.collect(), root: None }
    }

    /// The request that a definition came of; `None` if it came of none, or of several that differ.
    fn of(&self, definition: &pb::Definition) -> Option<Request> {
        let root = pb::Op::decode(definition.def.last()?.clone()).ok()?;
        let vertex = Digest::parse(&root.inputs.first()?.digest).ok()?;
        let all = self.lock();
        let mut asked = all.made.get(&vertex)?.iter().filter(|asked| asked.counts());
        // What else was built with it is not its story.
        let alone = |asked: &Asked<B>| Request { root: None, ..asked.request.clone() };
        let first = alone(asked.next()?);
        asked.all(|other| alone(other) == first).then_some(first)
    }
}

/// Who asks `gateway.v0` for a frontend of this daemon by its own name has asked for that one.
fn directly(frontend: &str, mut attrs: BTreeMap<String, String>) -> (String, BTreeMap<String, String>) {
    let is_own = frontend == GATEWAY && attrs.get("source").is_some_and(|source| source == DOCKERFILE);
    if !is_own {
        return (frontend.to_owned(), attrs);
    }
    for way in ["source", "cmdline"] {
        attrs.remove(way);
    }
    (DOCKERFILE.to_owned(), attrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Attrs = BTreeMap<String, String>;

    fn attrs(key: &str) -> Attrs {
        [(key.to_owned(), "1".to_owned())].into()
    }

    fn output_of(vertex: &Digest) -> BTreeMap<String, pb::Definition> {
        let input = pb::Input { digest: vertex.to_string(), index: 0 };
        let root = pb::Op { inputs: vec![input], ..pb::Op::default() };
        let definition = pb::Definition { def: vec![root.encode_to_vec().into()], ..Default::default() };
        [("in".to_owned(), definition)].into()
    }

    #[test]
    fn an_input_has_the_request_that_it_came_of_while_that_lasts() {
        let (all, none) = (Producers::<()>::default(), BTreeMap::new());
        let (one, other) = (Arc::new(()), Arc::new(()));
        let vertex = Digest::sha256("vertex");
        all.begin(&one, "", &attrs("one"), &none);
        let first = all.request(&one, "front", &attrs("a"), &none);
        assert_eq!(first.root.as_ref().map(|root| &root.args), Some(&attrs("one")));
        for _ in 0..2 {
            all.remember(&one, &first, vertex.clone());
        }
        assert_eq!(all.lock().made[&vertex].len(), 1, "it is known already");
        all.begin(&other, "", &Attrs::new(), &none);
        let second = all.request(&other, "front", &attrs("b"), &output_of(&vertex));
        // The other build was asked for nothing by itself, and what else the first was asked for is its own.
        assert_eq!(second.root, None);
        assert_eq!(second.inputs["in"], Request { root: None, ..first.clone() });
        // Two that differ leave it open.
        all.remember(&other, &second, vertex.clone());
        assert!(all.request(&other, "front", &attrs("b"), &output_of(&vertex)).inputs.is_empty());
        drop(one);
        assert_eq!(
            all.request(&other, "front", &attrs("b"), &output_of(&vertex)).inputs["in"].args,
            attrs("b")
        );
        drop(other);
        all.begin(&Arc::new(()), "front", &attrs("c"), &output_of(&vertex));
        assert!(all.lock().made.is_empty() && all.lock().roots.len() == 1);
    }

    #[test]
    fn a_build_that_is_one_request_has_no_root() {
        let (all, build, none) = (Producers::<()>::default(), Arc::new(()), BTreeMap::new());
        all.begin(&build, "front", &attrs("a"), &none);
        assert_eq!(all.request(&build, "front", &attrs("a"), &none).root, None);
        assert!(all.request(&build, "front", &attrs("b"), &none).root.is_some());
    }

    #[test]
    fn a_frontend_by_its_own_name_is_asked_for_directly() {
        let attrs = |source: &str| {
            let all = [("source", source), ("cmdline", source), ("target", "t")];
            all.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
        };
        let (frontend, left) = directly(GATEWAY, attrs(DOCKERFILE));
        let left: Vec<_> = left.keys().map(String::as_str).collect();
        assert_eq!((frontend.as_str(), left), (DOCKERFILE, vec!["target"]));
        assert_eq!(directly(GATEWAY, attrs("x/y")), (GATEWAY.to_owned(), attrs("x/y")));
        assert_eq!(directly(DOCKERFILE, attrs("x/y")), (DOCKERFILE.to_owned(), attrs("x/y")));
    }
}
