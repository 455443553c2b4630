"""Write what is derived from the models anew, schemas and tables: `python -m streamsample.config`."""

from streamsample.config.reference import write

if __name__ == "__main__":
    write()
