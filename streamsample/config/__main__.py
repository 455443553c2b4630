"""Write configs/job.schema.json and the tables of docs/job-file.md anew: `python -m streamsample.config`."""

from streamsample.config.reference import write

if __name__ == "__main__":
    write()
