use std::fs;
use std::path::PathBuf;

use super::*;
use crate::base::digest::sha256_hex;
use crate::model::pull;

/// Lists `imported.gguf` as an import does.
fn listed(bytes: &[u8]) -> Manifest {
    let text = format!(
        "schema = 1\n[[model]]\nname = 'imported'\nkind = 'embedder'\nlicence = ''\n\
         default = false\nfile = 'imported.gguf'\nsize = {}\nsha256 = '{}'\n",
        bytes.len(),
        sha256_hex(bytes)
    );
    Manifest::brought(&text).unwrap()
}

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
        let here = self.dir("here");
        bundle(&self.manifest_of(&here), &names, &here, &self.tar(), &mut |_| ())
    }

    fn import(&self) -> Result<Vec<Pulled>, PullError> {
        let there = self.dir("there");
        import(&self.manifest_of(&there), &there, &self.tar(), &mut |_| ())
    }

    /// Puts a model into the folder `here` as an import would.
    fn import_here(&self, bytes: &[u8]) {
        let list = listed(bytes).to_toml().unwrap();
        fs::write(self.dir("here").path().join(IMPORTED), list).unwrap();
        fs::write(self.dir("here").path().join("imported.gguf"), bytes).unwrap();
    }

    /// As an installation there sees it: with what was imported.
    fn manifest_of(&self, dir: &ModelDir) -> Manifest {
        let imported = Manifest::imported(dir.path()).unwrap();
        let entries = imported.models().iter().cloned();
        entries.fold(self.manifest.clone(), Manifest::with)
    }

    /// A tar of one member with a raw name, which `tar` itself would not let us write.
    fn craft(&self, name: &str, kind: EntryType, bytes: &[u8]) {
        self.craft_all(&[(name, kind, bytes)]);
    }

    fn craft_all(&self, members: &[(&str, EntryType, &[u8])]) {
        let mut tar = Builder::new(File::create(self.tar()).unwrap());
        for (name, kind, bytes) in members {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append(&header, *bytes).unwrap();
        }
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
fn a_model_that_was_imported_here_is_known_there() {
    let site = Site::new();
    let there = site.dir("there");
    for bytes in [b"first".as_slice(), b"again, anew"] {
        site.import_here(bytes);
        assert_eq!(site.bundle(&["imported", "a"]).unwrap(), ["imported", "a"]);
        let pulled = site.import().unwrap();
        assert_eq!(pulled[0].name, "imported");
        assert_eq!(fs::read(&pulled[0].path).unwrap(), bytes);
        let known = site.manifest_of(&there);
        assert_eq!(known.models().len(), 3, "replaced, not repeated");
        assert_eq!(known.get("imported").unwrap().sha256, sha256_hex(bytes));
    }
    site.bundle(&["a"]).unwrap();
    let bare = fs::read(site.tar()).unwrap();
    assert!(!bare.windows(IMPORTED.len()).any(|w| w == IMPORTED.as_bytes()), "nothing to list");
}

#[test]
fn a_list_that_does_not_fit_its_bundle_is_refused() {
    let site = Site::new();
    let file = EntryType::Regular;
    let list = listed(b"right").to_toml().unwrap();
    let refused = |members: &[(&str, EntryType, &[u8])]| {
        site.craft_all(members);
        let error = site.import().unwrap_err().to_string();
        assert!(site.arrived().is_empty(), "{:?}", site.arrived());
        error
    };
    let model = ("imported.gguf", file, b"right".as_slice());
    let listing = (IMPORTED, file, list.as_bytes());
    assert!(refused(&[model]).contains("bundle it anew"));
    assert!(refused(&[model, listing]).contains("bundle it anew"), "the list comes first");
    assert!(refused(&[listing, listing, model]).contains("first member"));
    assert!(refused(&[listing, ("imported.gguf", file, b"wrong")]).contains("SHA-256"));
    for (from, to, reason) in [
        ("\"imported\"", "\"a\"", "name and file"),
        ("imported.gguf", "imported.packed", "name and file"),
        ("imported.gguf", "../imported.gguf", "plain"),
        ("imported", "a", "belongs to a model of the manifest"),
        ("schema", "scheme", "its list"),
    ] {
        let wrong = list.replace(from, to);
        let error = refused(&[(IMPORTED, file, wrong.as_bytes()), model]);
        assert!(error.contains(reason), "{to}: {error}");
    }
    let long = vec![b' '; LIST_BYTES as usize + 1];
    assert!(refused(&[(IMPORTED, file, &long), model]).contains("too long"));
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
