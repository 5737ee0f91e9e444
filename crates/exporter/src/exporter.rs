//! The exporters: which there are, and what each makes of a result.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use kiln_oci::{Descriptor, Platform, PlatformMatcher, Time, gojson};

use crate::{
    Context, archive,
    error::{Error, Result},
    files,
    image::{Committed, commit, full_names},
    images::Images,
    options::{ArchiveOptions, Attributes, FileOptions, ImageOptions, StoreOptions},
    push::Push,
    source::{IMAGE_NAME, Source},
};

/// Key of an exporter's response: the digest of the manifest or index.
pub const IMAGE_DIGEST: &str = "containerimage.digest";
/// Key of an exporter's response: the digest of a single image's config.
pub const CONFIG_DIGEST: &str = "containerimage.config.digest";
/// Key of an exporter's response: the descriptor of the manifest or index, JSON in base64.
pub const DESCRIPTOR: &str = "containerimage.descriptor";

const CREATED: &str = "org.opencontainers.image.created";

/// An exporter with its options.
#[derive(Clone, Debug)]
pub enum Exporter {
    /// Keeps images in the store and pushes them.
    Image(Box<ImageOptions>, Box<StoreOptions>),
    /// Sends an OCI image layout.
    Oci(Box<ImageOptions>, ArchiveOptions),
    /// Sends an archive for `docker load`.
    Docker(Box<ImageOptions>, ArchiveOptions),
    /// Sends a tar archive of the files.
    Tar(Box<FileOptions>),
    /// Sends the files into a folder.
    Local(Box<FileOptions>),
}

/// What an export made.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// What the client is told.
    pub response: BTreeMap<String, String>,
    /// The image, if it is one; its blobs are held by the context's lease.
    pub descriptor: Option<Descriptor>,
    /// What is left to do when all exporters have come so far.
    pub push: Option<Push>,
}

impl Exporter {
    /// The exporter of that type, as clients name it.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownExporter`], [`Error::UnknownOption`], and what is wrong with an option's value.
    pub fn new(kind: &str, attributes: &BTreeMap<String, String>) -> Result<Self> {
        let kind = match kind {
            "image" | "oci" | "docker" | "tar" | "local" => kind,
            // Older clients name the image exporter so.
            "moby" | "containerimage" => "image",
            _ => return Err(Error::UnknownExporter(kind.to_owned())),
        };
        let known = ["image", "oci", "docker", "tar", "local"].into_iter().find(|known| *known == kind);
        let mut all = Attributes::new(known.unwrap_or_default(), attributes);
        let exporter = match kind {
            "image" => {
                let image = ImageOptions::take(&mut all, true)?;
                Exporter::Image(Box::new(image), Box::new(StoreOptions::take(&mut all)?))
            }
            "oci" | "docker" => {
                let image = Box::new(ImageOptions::take(&mut all, false)?);
                let archive = ArchiveOptions::take(&mut all)?;
                if kind == "oci" { Exporter::Oci(image, archive) } else { Exporter::Docker(image, archive) }
            }
            _ => {
                let options = Box::new(FileOptions::take(&mut all)?);
                if kind == "tar" { Exporter::Tar(options) } else { Exporter::Local(options) }
            }
        };
        all.finish()?;
        Ok(exporter)
    }

    /// The type, as clients name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Exporter::Image(..) => "image",
            Exporter::Oci(..) => "oci",
            Exporter::Docker(..) => "docker",
            Exporter::Tar(_) => "tar",
            Exporter::Local(_) => "local",
        }
    }

    /// What people are told that is going on.
    pub fn name(&self) -> &'static str {
        match self {
            Exporter::Image(..) => "exporting to image",
            Exporter::Oci(..) => "exporting to oci image format",
            Exporter::Docker(..) => "exporting to docker image format",
            Exporter::Tar(_) => "exporting to client tarball",
            Exporter::Local(_) => "exporting to client directory",
        }
    }

    /// Exports `source`.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub async fn export(&self, cx: &Context, source: &Source) -> Result<Exported> {
        match self {
            Exporter::Image(image, store) => export_image(cx, source, image, store).await,
            Exporter::Oci(image, archive) => export_archive(cx, source, image, *archive, false).await,
            Exporter::Docker(image, archive) => export_archive(cx, source, image, *archive, true).await,
            Exporter::Tar(options) => {
                files::send_archive(cx, source, options).await.map(|()| Exported::default())
            }
            Exporter::Local(options) => {
                files::send_folder(cx, source, options).await.map(|()| Exported::default())
            }
        }
    }
}

/// The source and the options with what each has for the other: image configs that the client gave, annotations and the
/// name that the frontend gave.
fn settle(source: &Source, options: &ImageOptions) -> Result<(Source, ImageOptions)> {
    let (mut source, mut options) = (source.clone(), options.clone());
    source.metadata.extend(options.metadata.clone());
    let mut annotations = crate::AnnotationSet::default();
    for (key, value) in &source.metadata {
        annotations.take(key, &String::from_utf8_lossy(value))?;
    }
    options.annotations.merge(annotations);
    if options.name == "*" {
        let name = source.metadata.get(IMAGE_NAME);
        options.name = name.map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    }
    Ok((source, options))
}

fn response(image: &Committed, descriptor: &Descriptor) -> Result<BTreeMap<String, String>> {
    let mut response = BTreeMap::new();
    response.insert(IMAGE_DIGEST.to_owned(), descriptor.digest.to_string());
    if let Some(config) = &image.config {
        response.insert(CONFIG_DIGEST.to_owned(), config.to_string());
    }
    let json = gojson::to_vec(descriptor).map_err(Error::json("a descriptor"))?;
    response.insert(DESCRIPTOR.to_owned(), BASE64_STANDARD.encode(json));
    Ok(response)
}

async fn export_image(
    cx: &Context,
    source: &Source,
    options: &ImageOptions,
    store: &StoreOptions,
) -> Result<Exported> {
    let (source, options) = settle(source, options)?;
    if store.unpack && options.rewrite_timestamp {
        return Err(Error::Conflict("exporter option rewrite-timestamp conflicts with unpack".into()));
    }
    let mut names: Vec<String> =
        options.name.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
    // A wrong name should not cost a build.
    full_names(&options.name)?;
    let image = commit(cx, &source, &options).await?;
    let mut canonical = store.name_canonical;
    if !store.dangling_prefix.is_empty() && (!store.dangling_empty_only || names.is_empty()) {
        canonical &= !names.is_empty();
        names.push(format!("{}@{}", store.dangling_prefix, image.descriptor.digest));
    }
    let mut response = response(&image, &image.descriptor)?;
    if !names.is_empty() {
        response.insert(IMAGE_NAME.to_owned(), names.join(","));
    }
    if store.store && !names.is_empty() {
        // What is pushed can be had from the registry again.
        let incomplete = store.allow_incomplete || store.push;
        keep(cx, &image, &names, canonical, incomplete).await?;
    }
    if store.unpack {
        unpack(cx, &source).await?;
    }
    let push = (store.push && !names.is_empty()).then(|| Push {
        image: image.clone(),
        names,
        by_digest: store.push_by_digest,
        insecure: store.insecure,
    });
    Ok(Exported { response, descriptor: Some(image.descriptor), push })
}

/// Enters the image into the store under its names.
async fn keep(
    cx: &Context,
    image: &Committed,
    names: &[String],
    canonical: bool,
    incomplete: bool,
) -> Result<()> {
    if !incomplete {
        image.fetch().await?;
    }
    let images = Images::new(&cx.store);
    let mut blobs: Vec<_> = image.layer_blobs().into_keys().collect();
    blobs.extend(image.documents.iter().map(|document| document.digest.clone()));
    for name in names {
        let step = cx.step(&format!("naming to {name}"));
        let put = |name: &str| images.put(name, &image.descriptor, &blobs);
        let mut outcome = put(name);
        if canonical && !name.contains('@') && outcome.is_ok() {
            outcome = put(&format!("{name}@{}", image.descriptor.digest));
        }
        step.end(outcome)?;
    }
    Ok(())
}

/// Has the files of the host's platform ready, so that a container can start at once.
async fn unpack(cx: &Context, source: &Source) -> Result<()> {
    let matcher = PlatformMatcher::only(&Platform::host());
    let mut platforms = source.platforms()?;
    platforms.retain(|platform| matcher.matches(&platform.platform));
    platforms.sort_by(|a, b| matcher.compare(&a.platform, &b.platform));
    let Some(platform) = platforms.first() else { return Ok(()) };
    let Some(tree) = source.tree(&platform.id)? else { return Ok(()) };
    let step = cx.step("unpacking");
    step.end(tree.open().await.map(drop).map_err(Error::of_ref("unpack the image")))
}

async fn export_archive(
    cx: &Context,
    source: &Source,
    options: &ImageOptions,
    archive: ArchiveOptions,
    docker: bool,
) -> Result<Exported> {
    if docker && source.is_multi() {
        let text = "docker exporter does not currently support exporting manifest lists";
        return Err(Error::Conflict(text.into()));
    }
    let (source, options) = settle(source, options)?;
    let names = full_names(&options.name)?;
    let image = commit(cx, &source, &options).await?;
    let mut root = image.descriptor.clone();
    if !root.annotations.contains_key(CREATED) {
        let created = match options.epoch.flatten().or(image.epoch) {
            Some(epoch) => Time::from_unix(epoch),
            None => Time::from_unix(Time::now().unix()),
        };
        root.annotations.insert(CREATED.to_owned(), created.to_string());
    }
    let mut response = response(&image, &root)?;
    if !names.is_empty() {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        response.insert(IMAGE_NAME.to_owned(), names.join(","));
    }
    image.fetch().await?;
    if archive.tar {
        archive::send(cx, &image, &root, &names, docker, &response).await?;
    } else {
        archive::send_blobs(cx, &image).await?;
    }
    Ok(Exported { response, descriptor: Some(image.descriptor), push: None })
}
