//! The owner task, and the way to reach it.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::context::VertexState;
use crate::{CacheStore, CachedResult, Domain, Edge, Graph, JobSerial, ProgressSink, SolveCause, SolveError};

pub(crate) struct Remote<D: Domain>(PhantomData<D>);

impl<D: Domain> Clone for Remote<D> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<D: Domain> Remote<D> {
    pub(crate) fn start(_store: Arc<dyn CacheStore<D>>) -> Self {
        Self(PhantomData)
    }
    pub(crate) fn open(&self, _data: D::Job, _sink: Arc<dyn ProgressSink>) -> JobSerial {
        0
    }
    pub(crate) async fn build(
        &self,
        _job: JobSerial,
        _stores: Vec<Arc<dyn CacheStore<D>>>,
        _graph: Graph<D>,
        _edge: Edge,
    ) -> Result<CachedResult<D>, SolveError<D>> {
        Err(SolveError::bare(SolveCause::Closed))
    }
    pub(crate) async fn build_for(
        &self,
        _vertex: &Arc<VertexState<D>>,
        _graph: Graph<D>,
        _edge: Edge,
    ) -> Result<CachedResult<D>, SolveError<D>> {
        Err(SolveError::bare(SolveCause::Closed))
    }
    pub(crate) async fn close(&self, _job: JobSerial) {}
    pub(crate) fn drop_job(&self, _job: JobSerial) {}
}
