//! Definitions as every peer can read them.

use crate::pb;

impl pb::Definition {
    /// The same without places in files that are none: a list of no places.
    ///
    /// Our encoder writes an entry of a map whose value is empty as its key alone, as protobuf allows. The decoder of BuildKit's
    /// clients takes such an entry for one of no value at all, and they panic.
    #[must_use]
    pub fn without_empty_places(mut self) -> Self {
        if let Some(source) = &mut self.source {
            source.locations.retain(|_, places| !places.locations.is_empty());
            for info in &mut source.infos {
                info.definition = info.definition.take().map(Self::without_empty_places);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use crate::pb;

    #[test]
    fn empty_places_go_and_others_stay() {
        let place = pb::Locations { locations: vec![pb::Location::default()] };
        let places = [("a".to_owned(), pb::Locations::default()), ("b".to_owned(), place)];
        let inner = pb::Definition {
            source: Some(pb::Source { locations: places.clone().into(), infos: Vec::new() }),
            ..pb::Definition::default()
        };
        let info = pb::SourceInfo { definition: Some(inner), ..pb::SourceInfo::default() };
        let outer = pb::Definition {
            source: Some(pb::Source { locations: places.into(), infos: vec![info] }),
            ..pb::Definition::default()
        };
        let source = outer.without_empty_places().source.unwrap();
        let names = |source: &pb::Source| source.locations.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&source), ["b"]);
        let inner = source.infos[0].definition.as_ref().unwrap().source.as_ref().unwrap();
        assert_eq!(names(inner), ["b"]);
    }
}
