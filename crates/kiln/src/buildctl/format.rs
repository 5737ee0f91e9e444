//! Records as `--format` sees them: the JSON that BuildKit's clients have for them.

use kiln_client::progress::time::rfc3339;
use kiln_oci::Platform;
use kiln_proto::{
    control::{BuildHistoryEvent, UsageRecord},
    pb,
    types::{BuildkitVersion, CdiDevice, GcPolicy, WorkerRecord},
};
use serde_json::{Map, Value, json};

/// The time that stands for none.
const ZERO: &str = "0001-01-01T00:00:00Z";

/// A record of disk usage.
pub(crate) fn usage(record: &UsageRecord) -> Value {
    json!({
        "id": record.id,
        "mutable": record.mutable,
        "inUse": record.in_use,
        "size": record.size,
        "createdAt": record.created_at.as_ref().map_or_else(|| ZERO.into(), rfc3339),
        "lastUsedAt": record.last_used_at.as_ref().map(rfc3339),
        "usageCount": record.usage_count,
        "parents": or_null(parents(record)),
        "description": record.description,
        "recordType": record.record_type,
        "shared": record.shared,
    })
}

/// A record's parents; old daemons know one only.
pub(crate) fn parents(record: &UsageRecord) -> Vec<String> {
    #[expect(deprecated, reason = "what old daemons send")]
    let old = &record.parent;
    match record.parents.is_empty() && !old.is_empty() {
        true => vec![old.clone()],
        false => record.parents.clone(),
    }
}

/// Go's encoder writes a list that was never made as null.
fn or_null(list: Vec<String>) -> Value {
    if list.is_empty() { Value::Null } else { list.into() }
}

/// A worker.
pub(crate) fn worker(record: &WorkerRecord) -> Value {
    let devices: Vec<_> = record.cdi_devices.iter().map(device).collect();
    json!({
        "id": record.id,
        "labels": record.labels,
        "platforms": record.platforms.iter().map(platform).collect::<Vec<_>>(),
        "gcPolicy": record.gc_policy.iter().map(policy).collect::<Vec<_>>(),
        "buildkitVersion": version(record.buildkit_version.as_ref()),
        "cdiDevices": if devices.is_empty() { Value::Null } else { devices.into() },
    })
}

/// A version of the daemon.
pub(crate) fn version(version: Option<&BuildkitVersion>) -> Value {
    let version = version.cloned().unwrap_or_default();
    let mut object =
        json!({ "package": version.package, "version": version.version, "revision": version.revision });
    if let (false, Some(fields)) = (version.dockerfile_version.is_empty(), object.as_object_mut()) {
        fields.insert("dockerfileVersion".into(), version.dockerfile_version.into());
    }
    object
}

fn platform(platform: &pb::Platform) -> Value {
    let mut object = Map::new();
    object.insert("architecture".into(), platform.architecture.clone().into());
    object.insert("os".into(), platform.os.clone().into());
    for (key, text) in [("os.version", &platform.os_version), ("variant", &platform.variant)] {
        if !text.is_empty() {
            object.insert(key.into(), text.clone().into());
        }
    }
    if !platform.os_features.is_empty() {
        object.insert("os.features".into(), platform.os_features.clone().into());
    }
    Value::Object(object)
}

fn policy(policy: &GcPolicy) -> Value {
    json!({
        "all": policy.all,
        "filter": or_null(policy.filters.clone()),
        "keepDuration": policy.keep_duration,
        "reservedSpace": policy.reserved_space,
        "maxUsedSpace": policy.max_used_space,
        "minFreeSpace": policy.min_free_space,
    })
}

fn device(device: &CdiDevice) -> Value {
    json!({
        "name": device.name,
        "autoAllow": device.auto_allow,
        "annotations": device.annotations,
        "onDemand": device.on_demand,
    })
}

/// Platforms as people write them.
pub(crate) fn platform_names(platforms: &[pb::Platform]) -> String {
    let name = |platform: &pb::Platform| {
        let mut named = Platform::new(&platform.os, &platform.architecture);
        if !platform.variant.is_empty() {
            named.variant.clone_from(&platform.variant);
        }
        named.normalize().format()
    };
    platforms.iter().map(name).collect::<Vec<_>>().join(",")
}

/// An event of the history.
pub(crate) fn history(event: &BuildHistoryEvent) -> Value {
    let record = event.record.as_ref().map(|record| {
        json!({
            "Ref": record.r#ref,
            "Frontend": record.frontend,
            "FrontendAttrs": record.frontend_attrs,
            "CreatedAt": record.created_at.as_ref().map(rfc3339),
            "CompletedAt": record.completed_at.as_ref().map(rfc3339),
            "ExporterResponse": record.exporter_response,
            "Generation": record.generation,
            "pinned": record.pinned,
            "numCachedSteps": record.num_cached_steps,
            "numTotalSteps": record.num_total_steps,
            "numCompletedSteps": record.num_completed_steps,
            "numWarnings": record.num_warnings,
        })
    });
    json!({ "type": event.r#type, "record": record })
}
