-- How often the work on a message was taken up again: what fails every time goes to a person.
ALTER TABLE work ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
