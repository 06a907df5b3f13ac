//! Whether Docker jobs can be part of the demo on this machine, and with which image; where not, why.

use std::path::{Path, PathBuf};

use super::engine::{Engine, EngineError, SOCKET};
use super::image;
use crate::error_chain::Chain;
use crate::executors::Helpers;
use crate::executors::helper_binary::HelperError;

/// The image that is fetched where none can be made.
const PULLED: (&str, &str) = ("busybox", "stable");

/// All that Docker jobs need is there.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) image: String,
    /// Of the engine.
    pub(super) version: String,
}

/// Why there will be no Docker jobs, for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub(super) enum Skipped {
    #[error("no Docker Engine answers on {SOCKET}")]
    NoEngine(#[source] EngineError),
    #[error(
        "a container needs a static flotilla-helper: `packaging/demo` builds one and names its folder in FLOTILLA_HELPERS"
    )]
    NoHelper(#[source] HelperError),
    #[error("{} is not static, as a container needs it: `packaging/demo` builds one and names its folder in FLOTILLA_HELPERS", .0.display())]
    HelperNotStatic(PathBuf),
    #[error("there is no image for the jobs: {} is no static program, and busybox cannot be pulled", image::BUSYBOX)]
    NoImage(#[source] EngineError),
}

impl Skipped {
    /// The reason, with its cause where that helps.
    pub(super) fn text(&self) -> String {
        match self {
            Self::NoEngine(_) | Self::NoImage(_) | Self::NoHelper(HelperError::Unreadable { .. }) => {
                Chain(self).to_string()
            }
            Self::NoHelper(HelperError::Missing { .. }) | Self::HelperNotStatic(_) => self.to_string(),
        }
    }
}

/// Looks for an engine, the helper and an image; makes or fetches the image where it is missing.
pub(super) async fn prepare(helpers: &Helpers) -> Result<Ready, Skipped> {
    prepare_at(Path::new(SOCKET), helpers).await
}

async fn prepare_at(socket: &Path, helpers: &Helpers) -> Result<Ready, Skipped> {
    let engine = Engine::new(socket);
    let version = engine.version().await.map_err(Skipped::NoEngine)?;
    let helper = helpers.for_architecture(&version.architecture).await.map_err(Skipped::NoHelper)?;
    let program = helper.read().await.map_err(Skipped::NoHelper)?;
    if !image::is_static(&program) {
        return Err(Skipped::HelperNotStatic(helper.path.clone()));
    }
    let image = image(&engine).await.map_err(Skipped::NoImage)?;
    Ok(Ready { image, version: version.version })
}

async fn image(engine: &Engine) -> Result<String, EngineError> {
    if engine.has_image(image::NAME).await? {
        return Ok(image::NAME.to_owned());
    }
    match import(engine).await {
        Ok(true) => return Ok(image::NAME.to_owned()),
        Ok(false) => {}
        Err(error) => tracing::warn!(error = %Chain(&error), "importing {} as an image", image::BUSYBOX),
    }
    let (repository, tag) = PULLED;
    let name = format!("{repository}:{tag}");
    if !engine.has_image(&name).await? {
        engine.pull(repository, tag).await?;
    }
    Ok(name)
}

/// Makes an image of this machine's busybox, where that is static; false where it is not.
async fn import(engine: &Engine) -> Result<bool, EngineError> {
    let path = Path::new(image::BUSYBOX);
    let Ok(program) = tokio::fs::read(path).await else { return Ok(false) };
    if !image::is_static(&program) {
        return Ok(false);
    }
    let tree = image::tree(path).await.map_err(|error| EngineError::Body(Box::new(error)))?;
    engine.import(image::NAME, tree).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Environment;

    #[tokio::test]
    async fn without_an_engine_the_reason_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let helpers = Helpers::new("/flotilla".into(), folder.path().to_owned(), Environment::default());
        let skipped = prepare_at(&folder.path().join("docker.sock"), &helpers).await.unwrap_err();
        assert!(matches!(skipped, Skipped::NoEngine(_)), "{skipped}");
    }
}
