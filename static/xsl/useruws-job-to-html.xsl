<?xml version="1.0" encoding="UTF-8"?>
<!--
  A UWS 1.1 job document as a page: what the job is and what can be done with it, with plain forms.

  The document's address is {base}/{service}/async/{id}. All links are relative to it, so that the page works
  behind any path prefix; those to the job itself begin with "./", so that no id can be taken for a URL scheme.
-->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0"
    xmlns:xlink="http://www.w3.org/1999/xlink"
    exclude-result-prefixes="uws xlink">

  <xsl:output method="html" encoding="UTF-8" doctype-system="about:legacy-compat" indent="yes"/>

  <xsl:template match="/uws:job">
    <xsl:variable name="phase" select="string(uws:phase)"/>
    <xsl:variable name="self" select="concat('./', uws:jobId)"/>
    <html lang="en">
      <head>
        <meta name="viewport" content="width=device-width, initial-scale=1"/>
        <meta name="color-scheme" content="light dark"/>
        <title><xsl:value-of select="concat('Job ', uws:jobId, ': ', $phase)"/></title>
        <link rel="stylesheet" href="../../static/xsl/uws.css"/>
      </head>
      <body>
        <nav aria-label="Breadcrumb"><a href="../async">All jobs</a></nav>
        <main>
          <header>
            <h1>Job <span class="id"><xsl:value-of select="uws:jobId"/></span></h1>
            <p>
              <span class="phase {$phase}"><xsl:value-of select="$phase"/></span>
              <xsl:if test="$phase = 'QUEUED' or $phase = 'EXECUTING'">
                <xsl:text> </xsl:text>
                <a href="{$self}?WAIT=-1">Reload when this changes</a>
              </xsl:if>
            </p>
          </header>
          <xsl:apply-templates select="uws:errorSummary">
            <xsl:with-param name="self" select="$self"/>
          </xsl:apply-templates>
          <xsl:call-template name="actions">
            <xsl:with-param name="self" select="$self"/>
            <xsl:with-param name="phase" select="$phase"/>
          </xsl:call-template>
          <xsl:apply-templates select="uws:results"/>
          <xsl:apply-templates select="uws:parameters">
            <xsl:with-param name="self" select="$self"/>
          </xsl:apply-templates>
          <xsl:call-template name="facts"/>
          <xsl:call-template name="settings">
            <xsl:with-param name="self" select="$self"/>
            <xsl:with-param name="phase" select="$phase"/>
          </xsl:call-template>
          <xsl:if test="uws:jobInfo/*">
            <section aria-labelledby="info">
              <h2 id="info">Further information</h2>
              <dl><xsl:apply-templates select="uws:jobInfo/*" mode="info"/></dl>
            </section>
          </xsl:if>
        </main>
      </body>
    </html>
  </xsl:template>

  <xsl:template match="uws:errorSummary">
    <xsl:param name="self"/>
    <section class="error" aria-labelledby="error">
      <h2 id="error">Error</h2>
      <p><xsl:value-of select="uws:message"/></p>
      <p>
        <xsl:choose>
          <xsl:when test="@type = 'transient'">The same job may succeed later. </xsl:when>
          <xsl:otherwise>The same job would fail again. </xsl:otherwise>
        </xsl:choose>
        <xsl:if test="@hasDetail = 'true' or @hasDetail = '1'">
          <a href="{$self}/error">Full error text</a>
        </xsl:if>
      </p>
    </section>
  </xsl:template>

  <xsl:template name="actions">
    <xsl:param name="self"/>
    <xsl:param name="phase"/>
    <section class="actions" aria-label="Actions">
      <xsl:if test="$phase = 'PENDING' or $phase = 'HELD'">
        <form method="post" action="{$self}/phase">
          <button name="PHASE" value="RUN">Run</button>
        </form>
      </xsl:if>
      <xsl:if test="$phase = 'PENDING' or $phase = 'QUEUED' or $phase = 'EXECUTING'
                    or $phase = 'HELD' or $phase = 'SUSPENDED'">
        <form method="post" action="{$self}/phase">
          <button name="PHASE" value="ABORT">Abort</button>
        </form>
      </xsl:if>
      <form method="post" action="{$self}">
        <button name="ACTION" value="DELETE" class="danger">Delete</button>
      </form>
    </section>
  </xsl:template>

  <xsl:template match="uws:results">
    <section aria-labelledby="results">
      <h2 id="results">Results</h2>
      <xsl:choose>
        <xsl:when test="uws:result">
          <div class="scroll" role="region" aria-labelledby="results" tabindex="0">
            <table>
              <thead>
                <tr><th scope="col">Name</th><th scope="col">Media type</th><th scope="col">Size</th></tr>
              </thead>
              <tbody><xsl:apply-templates select="uws:result"/></tbody>
            </table>
          </div>
          <xsl:for-each select="uws:result[starts-with(@mime-type, 'image/')]">
            <xsl:variable name="url"><xsl:call-template name="safe-url"/></xsl:variable>
            <xsl:if test="$url != ''">
              <p><img src="{$url}" alt="Result {@id}" loading="lazy"/></p>
            </xsl:if>
          </xsl:for-each>
        </xsl:when>
        <xsl:otherwise><p>None so far.</p></xsl:otherwise>
      </xsl:choose>
    </section>
  </xsl:template>

  <xsl:template match="uws:result">
    <tr>
      <th scope="row">
        <xsl:call-template name="link"><xsl:with-param name="text" select="@id"/></xsl:call-template>
      </th>
      <td><xsl:value-of select="@mime-type"/></td>
      <td class="number"><xsl:apply-templates select="@size"/></td>
    </tr>
  </xsl:template>

  <xsl:template match="@size">
    <xsl:choose>
      <xsl:when test=". &lt; 1000"><xsl:value-of select="concat(., ' B')"/></xsl:when>
      <xsl:when test=". &lt; 1000000"><xsl:value-of select="format-number(. div 1000, '0.0')"/> kB</xsl:when>
      <xsl:when test=". &lt; 1000000000"><xsl:value-of select="format-number(. div 1000000, '0.0')"/> MB</xsl:when>
      <xsl:otherwise><xsl:value-of select="format-number(. div 1000000000, '0.0')"/> GB</xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <xsl:template match="uws:parameters">
    <xsl:param name="self"/>
    <section aria-labelledby="parameters">
      <h2 id="parameters">Parameters</h2>
      <xsl:choose>
        <xsl:when test="uws:parameter">
          <div class="scroll" role="region" aria-labelledby="parameters" tabindex="0">
            <table>
              <thead><tr><th scope="col">Name</th><th scope="col">Value</th></tr></thead>
              <tbody>
                <xsl:for-each select="uws:parameter">
                  <tr>
                    <th scope="row"><xsl:value-of select="@id"/></th>
                    <td class="value"><xsl:apply-templates select="."/></td>
                  </tr>
                </xsl:for-each>
              </tbody>
            </table>
          </div>
        </xsl:when>
        <xsl:otherwise><p>None.</p></xsl:otherwise>
      </xsl:choose>
    </section>
  </xsl:template>

  <xsl:template match="uws:parameter"><xsl:value-of select="."/></xsl:template>

  <xsl:template match="uws:parameter[@byReference = 'true' or @byReference = '1']">
    <xsl:call-template name="link">
      <xsl:with-param name="text" select="."/>
      <xsl:with-param name="url" select="normalize-space(.)"/>
    </xsl:call-template>
  </xsl:template>

  <xsl:template name="facts">
    <section aria-labelledby="facts">
      <h2 id="facts">Job</h2>
      <dl>
        <xsl:if test="uws:runId != ''"><dt>Run id</dt><dd><xsl:value-of select="uws:runId"/></dd></xsl:if>
        <dt>Owner</dt>
        <dd>
          <xsl:choose>
            <xsl:when test="uws:ownerId != ''"><xsl:value-of select="uws:ownerId"/></xsl:when>
            <xsl:otherwise>nobody in particular</xsl:otherwise>
          </xsl:choose>
        </dd>
        <dt>Created</dt><dd><xsl:apply-templates select="uws:creationTime"/></dd>
        <dt>Started</dt><dd><xsl:apply-templates select="uws:startTime"/></dd>
        <dt>Ended</dt><dd><xsl:apply-templates select="uws:endTime"/></dd>
        <xsl:if test="uws:quote != ''">
          <dt>Expected to end</dt><dd><xsl:apply-templates select="uws:quote"/></dd>
        </xsl:if>
        <dt>May run for</dt>
        <dd>
          <xsl:choose>
            <xsl:when test="uws:executionDuration = 0">as long as it takes</xsl:when>
            <xsl:otherwise><xsl:value-of select="concat(uws:executionDuration, ' s')"/></xsl:otherwise>
          </xsl:choose>
        </dd>
        <dt>Will be destroyed</dt><dd><xsl:apply-templates select="uws:destruction"/></dd>
      </dl>
    </section>
  </xsl:template>

  <xsl:template name="settings">
    <xsl:param name="self"/>
    <xsl:param name="phase"/>
    <xsl:if test="$phase != 'ARCHIVED'">
      <section class="settings" aria-labelledby="settings">
        <h2 id="settings">Settings</h2>
        <xsl:if test="$phase = 'PENDING' or $phase = 'HELD' or $phase = 'QUEUED'">
          <form method="post" action="{$self}/executionduration">
            <label for="duration">Longest run in seconds (0 for no limit)</label>
            <input id="duration" name="EXECUTIONDURATION" type="number" min="0" step="1" required="required"
                   value="{uws:executionDuration}"/>
            <button>Change the limit</button>
          </form>
        </xsl:if>
        <form method="post" action="{$self}/destruction">
          <label for="destruction">Time of destruction (UTC, as 2030-01-31T12:00:00Z)</label>
          <input id="destruction" name="DESTRUCTION" type="text" required="required" autocomplete="off"
                 value="{uws:destruction}"/>
          <button>Change the time</button>
        </form>
      </section>
    </xsl:if>
  </xsl:template>

  <xsl:template match="uws:creationTime | uws:startTime | uws:endTime | uws:quote | uws:destruction">
    <xsl:choose>
      <xsl:when test=". != ''">
        <time datetime="{.}"><xsl:value-of select="concat(translate(substring(., 1, 19), 'T', ' '), ' UTC')"/></time>
      </xsl:when>
      <xsl:when test="self::uws:destruction">never</xsl:when>
      <xsl:otherwise>not yet</xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <xsl:template match="*" mode="info">
    <dt><xsl:value-of select="local-name()"/></dt>
    <dd>
      <xsl:for-each select="@*"><xsl:value-of select="concat(local-name(), ': ', ., ' ')"/></xsl:for-each>
      <xsl:choose>
        <xsl:when test="*"><dl><xsl:apply-templates select="*" mode="info"/></dl></xsl:when>
        <xsl:otherwise><xsl:value-of select="."/></xsl:otherwise>
      </xsl:choose>
    </dd>
  </xsl:template>

  <xsl:template name="link">
    <xsl:param name="text"/>
    <xsl:param name="url" select="@xlink:href"/>
    <xsl:variable name="safe">
      <xsl:call-template name="safe-url"><xsl:with-param name="url" select="$url"/></xsl:call-template>
    </xsl:variable>
    <xsl:choose>
      <xsl:when test="$safe != ''"><a href="{$safe}"><xsl:value-of select="$text"/></a></xsl:when>
      <xsl:otherwise><xsl:value-of select="$text"/></xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <!-- A reference, or nothing if a browser could take it for something to execute. -->
  <xsl:template name="safe-url">
    <xsl:param name="url" select="@xlink:href"/>
    <xsl:if test="starts-with($url, 'http://') or starts-with($url, 'https://') or starts-with($url, '/')">
      <xsl:value-of select="$url"/>
    </xsl:if>
  </xsl:template>

</xsl:stylesheet>
