//! Fetches the files that a data source reads.

use std::io::Write;
use std::path::Path;

use mopd_data::{DataError, DataProblem, HubDataset};
use mopd_plan::DataSource;
use mopd_store::named::RepositoryKind;
use mopd_store::write_atomically;

use super::fetch::{HubClient, UNLIMITED};
use super::{Endpoint, Hub, Repository, checked_revision, failed};
use crate::failure::Result;

impl Hub {
    /// Fetches the files of a source that names a data set of the hub, relative to `base`, and that are not
    /// in the cache. Of a data set, only the files of the split are fetched.
    pub fn fetch_data(&self, base: &Path, source: &DataSource) -> Result<()> {
        let Some(dataset) = HubDataset::of_source(base, source) else { return Ok(()) };
        // The name may be meant as a folder.
        let no_folder = format!("there is no folder {}, and ", base.join(&source.path).display());
        self.fetch_split(dataset, source).map_err(|error| error.with_prefix(&no_folder))
    }

    fn fetch_split(&self, dataset: HubDataset, source: &DataSource) -> Result<()> {
        let split = source.split.as_deref();
        let refused = |problem| DataError::of_file(Path::new(&source.path), problem);
        match dataset.cached(&self.cache, split) {
            Err(DataProblem::NotFetched { .. }) => {}
            Err(problem) => return Err(refused(problem).into()),
            Ok(_) => return Ok(()),
        }
        let repository = Repository { kind: RepositoryKind::Dataset, name: dataset.repository };
        checked_revision(repository, dataset.revision)?;
        if self.offline {
            let in_part = repository.cached_commit(&self.cache, dataset.revision).is_some();
            return Err(self.not_here(repository, dataset.revision, in_part));
        }
        let endpoint = Endpoint::new(&self.endpoint)?;
        let client = HubClient::new(&endpoint, self.token.as_deref());
        let (commit, names) = self.resolve(repository, dataset.revision, &client, &endpoint)?;
        let snapshot = repository.snapshot(&self.cache, &commit);
        let paths = dataset.chosen(&snapshot, &names, split).map_err(refused)?;
        // Before the files: with the list, a part of them is not taken for the whole.
        let list = serde_json::to_vec(&names).expect("names are text");
        write_atomically(&dataset.list(&self.cache, &commit), |file| file.write_all(&list))?;
        for path in paths.iter().filter(|path| !path.exists()) {
            let within = path.strip_prefix(&snapshot).expect("it is joined to the commit's folder");
            let name = within.to_str().expect("the hub's names are text");
            let fetched = client.file(repository, &commit, name, UNLIMITED, path);
            fetched.map_err(|trouble| failed(repository, dataset.revision, &endpoint, trouble))?;
        }
        self.set_revision(repository, dataset.revision, &commit)
    }
}
