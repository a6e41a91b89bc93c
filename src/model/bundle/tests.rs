use std::fs;
use std::path::PathBuf;

use super::*;
use crate::base::digest::sha256_hex;
use crate::model::pull;

/// Two models, `a` (default) and `b`, installed in a folder of their own.
struct Site {
    temp: tempfile::TempDir,
    manifest: Manifest,
}

impl Site {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let model = |name: &str, default: bool, bytes: &[u8]| {
            format!(
                "[[model]]\nname = '{name}'\nkind = 'embedder'\nlicence = 'MIT'\n\
                 default = {default}\nfile = '{name}.gguf'\nsize = {}\nsha256 = '{}'\n",
                bytes.len(),
                sha256_hex(bytes)
            )
        };
        let text =
            format!("schema = 1\n{}{}", model("a", true, b"alpha"), model("b", false, b"be"));
        let path = temp.path().join("manifest.toml");
        fs::write(&path, text).unwrap();
        let manifest = Manifest::load(Some(&path)).unwrap();
        fs::create_dir(temp.path().join("here")).unwrap();
        fs::write(temp.path().join("here/a.gguf"), b"alpha").unwrap();
        fs::write(temp.path().join("here/b.gguf"), b"be").unwrap();
        Self { temp, manifest }
    }

    fn dir(&self, name: &str) -> ModelDir {
        ModelDir::at(self.temp.path().join(name))
    }

    fn tar(&self) -> PathBuf {
        self.temp.path().join("out.tar")
    }

    fn bundle(&self, names: &[&str]) -> Result<Vec<String>, PullError> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        bundle(&self.manifest, &names, &self.dir("here"), &self.tar(), &mut |_| ())
    }

    fn import(&self) -> Result<Vec<Pulled>, PullError> {
        import(&self.manifest, &self.dir("there"), &self.tar(), &mut |_| ())
    }

    /// A tar of one member with a raw name, which `tar` itself would not let us write.
    fn craft(&self, name: &str, kind: EntryType, bytes: &[u8]) {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut tar = Builder::new(File::create(self.tar()).unwrap());
        tar.append(&header, bytes).unwrap();
        tar.finish().unwrap();
    }

    /// Weights that arrived; the lock file is no weight.
    fn arrived(&self) -> Vec<String> {
        let entries = fs::read_dir(self.temp.path().join("there")).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n != ".lock").collect()
    }
}

#[test]
fn what_is_bundled_here_is_installed_there() {
    let site = Site::new();
    assert_eq!(site.bundle(&["a", "b"]).unwrap(), ["a", "b"]);
    let first = fs::read(site.tar()).unwrap();
    site.bundle(&["a", "b"]).unwrap();
    assert_eq!(fs::read(site.tar()).unwrap(), first, "the same models give the same bytes");
    let pulled = site.import().unwrap();
    assert_eq!(pulled.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(fs::read(&pulled[0].path).unwrap(), b"alpha");
    assert_eq!(fs::read(&pulled[1].path).unwrap(), b"be");
    assert_eq!(site.arrived().len(), 2);
}

#[test]
fn without_names_the_default_models_are_bundled() {
    let site = Site::new();
    assert_eq!(site.bundle(&[]).unwrap(), ["a"]);
}

#[test]
fn damaged_or_missing_weights_are_not_bundled() {
    let site = Site::new();
    fs::write(site.temp.path().join("here/a.gguf"), b"alphq").unwrap();
    assert!(matches!(site.bundle(&["a"]), Err(PullError::Mismatch { .. })));
    fs::remove_file(site.temp.path().join("here/a.gguf")).unwrap();
    assert!(matches!(site.bundle(&["a"]), Err(PullError::NotFound { .. })));
    assert!(!site.tar().exists());
}

#[test]
fn an_import_is_all_or_nothing() {
    let site = Site::new();
    site.bundle(&["a", "b"]).unwrap();
    let mut bytes = fs::read(site.tar()).unwrap();
    let at = bytes.windows(2).rposition(|w| w == b"be").unwrap();
    bytes[at] = b'B';
    fs::write(site.tar(), bytes).unwrap();
    assert!(matches!(site.import(), Err(PullError::Mismatch { .. })));
    assert!(site.arrived().is_empty(), "{:?}", site.arrived());
}

#[test]
fn strange_members_are_refused() {
    let site = Site::new();
    let cases = [
        ("../a.gguf", EntryType::Regular),
        ("/a.gguf", EntryType::Regular),
        ("x/a.gguf", EntryType::Regular),
        ("evil.gguf", EntryType::Regular),
        (".lock", EntryType::Regular),
        ("a.gguf", EntryType::Symlink),
        ("a.gguf", EntryType::Directory),
    ];
    for (name, kind) in cases {
        site.craft(name, kind, b"alpha");
        let error = site.import().unwrap_err();
        assert!(matches!(error, PullError::Bundle { .. }), "{name}: {error}");
        assert!(site.arrived().is_empty());
    }
    assert!(!site.temp.path().join("a.gguf").exists());
}

#[test]
fn truncated_or_foreign_files_are_refused() {
    let site = Site::new();
    site.bundle(&["a"]).unwrap();
    let bytes = fs::read(site.tar()).unwrap();
    for end in [0, 100, 514] {
        fs::write(site.tar(), &bytes[..end]).unwrap();
        assert!(site.import().is_err(), "{end} bytes");
    }
    fs::write(site.tar(), vec![7_u8; 4096]).unwrap();
    assert!(matches!(site.import(), Err(PullError::Bundle { .. })));
    assert!(site.arrived().is_empty());
}

#[test]
fn a_pull_takes_its_model_out_of_a_bundle() {
    let site = Site::new();
    site.bundle(&["a", "b"]).unwrap();
    let manifest = site.manifest.clone().with_local(&site.tar());
    let dir = site.dir("there");
    let pulled = pull::pull(&manifest, &["b".into()], &dir, &mut |_| ()).unwrap();
    assert_eq!(pulled[0].origin, Origin::Local(site.tar()));
    assert_eq!(site.arrived(), ["b.gguf"]);
}
